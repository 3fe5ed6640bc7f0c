"""Compare digits with files from the published procedure: see tests/golden/chexlocalize/README.md."""

import hashlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.data.chexlocalize import read_segmentations, write_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT, CHEXSEG_TASKS, Taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.bootstrap import draws, pooled_replicates
from chexseg_jax.evaluation.iou import per_image, pooled
from chexseg_jax.evaluation.published import compare, hits, number, write_results

TASKS = CHEXPERT.tasks
IMAGES, SIZE = 9, (36, 52)
#: A task set with two tasks behind one label; tasks that an image does not list are unknown.
OTHER = Taxonomy(
    labels=("Nodule", "Fracture"),
    tasks=("Rib Fracture", "Nodule", "Old Fracture"),
    label_of={"Rib Fracture": "Fracture", "Old Fracture": "Fracture"},
    missing="unknown",
)


def rectangles(shift):
    """Computed masks of nine images: most tasks in some images, Edema in none, Support Devices in all."""
    images = {}
    for i in range(IMAGES):
        masks = {}
        for k, task in enumerate(TASKS):
            masks[task] = np.zeros(SIZE, bool)
            if task == "Support Devices" or (task != "Edema" and (3 * i + 5 * k + shift) % 7 < 3):
                top, left = (5 * i + 3 * k + shift) % 20, (7 * k + 2 * i + 3 * shift) % 30
                masks[task][top : top + 8 + i, left : left + 6 + k] = True
        images[f"patient{64541 + i}_study1_view1_frontal"] = masks
    return images


def saliency():
    """A coarse map for each image and task: a bump at a varying place of a 6 x 8 grid."""
    y, x = np.mgrid[:6, :8]
    return {
        f"patient{64541 + i}_study1_view1_frontal_{task}|map": np.exp(
            -((y - (i + k) % 6) ** 2 + (x - (2 * i + k) % 8) ** 2) / 3
        ).astype(np.float32)
        for i in range(IMAGES)
        for k, task in enumerate(TASKS)
    }


@pytest.fixture
def files(tmp_path):
    """(truth, prediction, maps): each of truth and prediction lacks one image of the other."""
    truth, prediction = rectangles(0), rectangles(1)
    del truth["patient64549_study1_view1_frontal"], prediction["patient64543_study1_view1_frontal"]
    write_segmentations(tmp_path / "gt.json", truth)
    write_segmentations(tmp_path / "pred.json", prediction)
    np.savez(tmp_path / "maps.npz", **saliency())
    return tmp_path / "gt.json", tmp_path / "pred.json", tmp_path / "maps.npz"


@pytest.fixture
def pair(files):
    return read_segmentations(files[0]), read_segmentations(files[1])


def same(folder, golden, names):
    for name in names:
        assert (folder / name).read_bytes() == (golden / name).read_bytes(), name


@pytest.mark.parametrize("true_positives_only", [True, False])
def test_iou_files_to_the_last_digit(pair, golden, tmp_path, true_positives_only):
    compared = compare(*pair)
    ids, counts = compared.test_set if true_positives_only else (compared.ids, compared.counts)
    out = tmp_path / "out"
    write_results(out, "iou", ids, per_image(counts, true_positives_only=true_positives_only), tasks=TASKS)
    reference = golden / f"chexlocalize/synthetic/iou_truepos_{true_positives_only}"
    same(out, reference, ["iou_results_per_cxr.csv", "iou_summary_results.csv"])
    replicates = (out / "iou_bootstrap_results_per_cxr.csv").read_bytes()
    digest = (reference / "iou_bootstrap_results_per_cxr.csv.sha256").read_text().split()[0]
    assert hashlib.sha256(replicates).hexdigest() == digest


def test_hit_files_to_the_last_digit(pair, files, golden, tmp_path):
    truth, _ = pair
    scores, unmapped = hits(truth, files[2])
    assert unmapped == ()
    out = tmp_path / "out"
    write_results(out, "hitmiss", truth.ids, scores, tasks=TASKS)
    reference = golden / "chexlocalize/synthetic/hit"
    same(out, reference, ["hitmiss_results_per_cxr.csv", "hitmiss_summary_results.csv"])


def test_images_in_one_of_the_files_only(pair):
    compared = compare(*pair)
    assert len(compared.ids) == IMAGES
    assert [compared.ids[i][:12] for i in np.flatnonzero(~compared.in_truth)] == ["patient64549"]
    assert compared.counts.positives[~compared.in_truth].sum() == 0
    unpredicted = [image_id.startswith("patient64543") for image_id in compared.ids]
    assert compared.counts.predicted[unpredicted].sum() == 0
    assert compared.counts.positives[unpredicted].sum() > 0
    ids, counts = compared.test_set
    assert ids == pair[0].ids
    assert counts.positives.shape == (IMAGES - 1, 10)


def test_counts_equal_pixel_counts(pair):
    compared = compare(*pair)
    image_id = "patient64545_study1_view1_frontal"
    row = compared.ids.index(image_id)
    truth, prediction = (side.masks(image_id) for side in pair)
    np.testing.assert_array_equal(compared.counts.intersections[row], (truth & prediction).sum((0, 1)))
    np.testing.assert_array_equal(compared.counts.unions[row], (truth | prediction).sum((0, 1)))


def test_unknown_masks_have_no_weight(tmp_path):
    """The scores of partly annotated truth equal those computed by hand on the known part."""
    rng = np.random.default_rng(0)
    truth, prediction = (dict(zip("abcd", rng.random((4, 9, 8, 3)) < 0.4, strict=True)) for _ in range(2))
    known = {"a": (0, 1, 2), "b": (0,), "c": (1,)}  # and nothing of "d"
    listed = {i: {OTHER.tasks[k]: truth[i][..., k] for k in tasks} for i, tasks in known.items()}
    write_segmentations(tmp_path / "gt.json", listed, OTHER)
    write_segmentations(tmp_path / "pred.json", prediction, OTHER)
    compared = compare(*(read_segmentations(tmp_path / f"{name}.json", OTHER) for name in ("gt", "pred")))
    rows, tasks = [1, 1, 2, 2, 3, 3, 3], [1, 2, 0, 2, 0, 1, 2]
    assert not any(n[rows, tasks].any() for n in compared.counts)
    expected = np.full((4, 3), np.nan)
    for k, annotated in enumerate(("ab", "ac", "a")):
        both = [(truth[i][..., k] & prediction[i][..., k]).sum() for i in annotated]
        either = [(truth[i][..., k] | prediction[i][..., k]).sum() for i in annotated]
        assert pooled(compared.counts)[k] == sum(both) / sum(either)
        expected[["abcd".index(i) for i in annotated], k] = np.divide(both, either)
    for true_positives_only in (True, False):
        scores = per_image(compared.counts, true_positives_only=true_positives_only)
        np.testing.assert_array_equal(scores, expected)
    ids, counts = compared.test_set
    assert ids == ("a", "b", "c")
    rows = draws(3, replicates=50)
    replicates = pooled_replicates(counts, rows)[:, 2]  # known in image a only
    np.testing.assert_array_equal(replicates, np.where((rows == 0).any(1), expected[0, 2], np.nan))


@pytest.mark.parametrize("image_id", ["a_b", "a|b"])
def test_maps_of_tasks_with_an_underscore(tmp_path, image_id):
    tasks = ("Thickening", "Pleural_Thickening", "Edema")
    taxonomy = Taxonomy(labels=tasks, tasks=tasks, aliases={"Lung_Water": "Edema"})
    masks = np.zeros((4, 4, 3), bool)
    masks[0, 0] = True
    write_segmentations(tmp_path / "gt.json", {image_id: masks}, taxonomy)
    inside = masks[..., 0].astype(np.float32)
    maps = {"Thickening": 1 - inside, "Pleural_Thickening": inside, "Lung_Water": inside}
    np.savez(tmp_path / "maps.npz", **{f"{image_id}_{task}|map": values for task, values in maps.items()})
    scores, unmapped = hits(read_segmentations(tmp_path / "gt.json", taxonomy), tmp_path / "maps.npz")
    np.testing.assert_array_equal(scores, [[0, 1, 1]])
    assert unmapped == ()


def test_the_bootstrap_file_has_the_published_order_or_the_task_sets_own(tmp_path):
    for tasks, order in ((TASKS, CHEXSEG_TASKS), (OTHER.tasks, OTHER.tasks)):
        write_results(tmp_path, "iou", ["a"], np.arange(float(len(tasks)))[None], tasks=tasks)
        header, first = (tmp_path / "iou_bootstrap_results_per_cxr.csv").read_text().splitlines()[:2]
        assert header.split(",") == list(order)
        assert [tasks[int(float(value))] for value in first.split(",")] == list(order)
        assert (tmp_path / "iou_summary_results.csv").read_text().splitlines()[1].startswith(tasks[0])


def test_mismatched_files_are_refused(pair, tmp_path):
    write_segmentations(tmp_path / "other.json", {"someone": np.ones((4, 4, 10), bool)})
    with pytest.raises(InputError, match=r"other\.json and .*gt\.json have no image in common .*'someone'"):
        compare(pair[0], read_segmentations(tmp_path / "other.json"))
    write_segmentations(tmp_path / "small.json", {pair[0].ids[0]: np.ones((4, 4, 10), bool)})
    with pytest.raises(InputError, match=r"small\.json: masks of patient64541.* have height x width 4 x 4"):
        compare(pair[0], read_segmentations(tmp_path / "small.json"))


def test_a_hit_has_the_peak_of_the_resized_map_in_the_mask(tmp_path):
    mask = np.zeros((40, 80), bool)
    mask[10:20, 60:70] = True
    write_segmentations(
        tmp_path / "gt.json", {"a": {"Edema": mask, "Lung Opacity": mask}, "b": {"Edema": mask}}
    )
    inside, outside = np.zeros((4, 8)), np.zeros((4, 8))
    inside[1, 6], outside[1, 5] = 1, 1
    np.savez(tmp_path / "maps.npz", **{"a_Edema|map": inside[None, None], "a_Lung Opacity|map": outside})
    truth = read_segmentations(tmp_path / "gt.json")
    scores, unmapped = hits(truth, tmp_path / "maps.npz")
    assert scores[0, TASKS.index("Edema")] == 1
    assert scores[0, TASKS.index("Airspace Opacity")] == 0
    assert np.isnan(scores).sum() == 18
    assert unmapped == ("b",)


@pytest.mark.parametrize(
    ("maps", "complaint"),
    [
        ({"a_Oedema|map": np.ones((2, 2))}, "unknown task 'Oedema'"),
        ({"a_Edema|map": np.ones(3)}, "'a_Edema|map' is not a map of finite numbers"),
        ({"a_Edema|map": np.full((2, 2), np.nan)}, "not a map of finite numbers"),
        ({"z_Edema|map": np.ones((2, 2))}, "no map of an image in"),
        ({"a_Edema|map": np.array([["x"]])}, "not an npz of saliency maps"),
        ({"a_Edema|map": np.array([[{}]], object)}, "not an npz of saliency maps"),
    ],
)
def test_unusable_maps_are_named(tmp_path, maps, complaint):
    write_segmentations(tmp_path / "gt.json", {"a": np.ones((4, 4, 10), bool)})
    np.savez(tmp_path / "maps.npz", **maps)
    with pytest.raises(InputError, match=complaint) as error:
        hits(read_segmentations(tmp_path / "gt.json"), tmp_path / "maps.npz")
    assert str(tmp_path / "maps.npz") in str(error.value)


def test_other_files_than_an_npz_are_refused(tmp_path):
    write_segmentations(tmp_path / "gt.json", {"a": np.ones((4, 4, 10), bool)})
    for content in (b"", b"PK\x03\x04 no zip", b"text"):
        (tmp_path / "maps.npz").write_bytes(content)
        with pytest.raises(InputError, match="not an npz"):
            hits(read_segmentations(tmp_path / "gt.json"), tmp_path / "maps.npz")


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=20), st.booleans())
def test_damaged_maps_are_refused_or_read(tmp_path_factory, at, noise, compressed):
    folder = tmp_path_factory.getbasetemp()
    write_segmentations(folder / "gt.json", {"a": np.ones((4, 4, 10), bool)})
    save = np.savez_compressed if compressed else np.savez
    save(folder / "maps.npz", **{"a_Edema|map": np.eye(5), "a_Lung Lesion|map": np.ones((3, 4))})
    data = (folder / "maps.npz").read_bytes()
    at %= len(data)
    (folder / "maps.npz").write_bytes(data[:at] + noise + data[at + len(noise) :])
    with suppress(InputError):
        hits(read_segmentations(folder / "gt.json"), folder / "maps.npz")


def test_numbers_print_as_in_pandas():
    assert [number(np.float64(x)) for x in (0.1 + 0.2, 1, 1e-5, np.nan)] == [
        "0.30000000000000004",
        "1.0",
        "1e-05",
        "",
    ]
