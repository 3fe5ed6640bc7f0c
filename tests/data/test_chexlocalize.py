import json
from contextlib import suppress
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from chexseg_jax.data.chexlocalize import (
    decode,
    empty,
    encode,
    encode_masks,
    rasterize,
    read_annotations,
    read_segmentations,
    run_lengths,
    write_annotations,
    write_segmentations,
)
from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy
from chexseg_jax.errors import InputError

TASKS = CHEXPERT.tasks
masks = hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def in_file(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@given(masks)
def test_code_round_trip(mask):
    code = encode(mask)
    assert code["size"] == list(mask.shape)
    np.testing.assert_array_equal(decode(code), mask)


@given(masks)
def test_decoding_agrees_with_pycocotools(mask):
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    assert encode(mask)["counts"].encode() == code["counts"]
    assert coco.area(code) == decode(encode(mask)).sum()


@given(masks)
def test_run_lengths_are_those_of_the_columns(mask):
    runs = [(value, len(list(run))) for value, run in groupby(mask.T.ravel().tolist())]
    expected = [length for _, length in runs]
    np.testing.assert_array_equal(
        run_lengths(encode(mask)["counts"]), [0, *expected] if runs[0][0] else expected
    )


def test_long_runs_and_large_differences():
    lengths = [5_000_000, 1, 3, 1_000_000, 2, 400_000, 160_954]
    code = coco.frPyObjects({"size": [2320, 2828], "counts": lengths}, 2320, 2828)
    np.testing.assert_array_equal(run_lengths(code["counts"].decode()), lengths)


@pytest.mark.parametrize(
    ("size", "counts"), [((2320, 2828), "PVWX6"), ((2022, 2021), "nefl3"), ((512, 512), "PPP8")]
)
def test_the_empty_mask_as_published(size, counts):
    assert empty(*size) == encode(np.zeros(size, bool)) == {"size": list(size), "counts": counts}


@pytest.mark.parametrize(
    ("counts", "complaint"),
    [
        ("", "empty"),
        ("é", "characters"),
        ("\x00", "characters"),
        ("zz~", "characters"),
        ("P", "breaks off"),
        ("PPPPPPPPPPPP0", "30 bits"),
        ("O", "negative"),
    ],
)
def test_malformed_codes(counts, complaint):
    with pytest.raises(ValueError, match=complaint):
        run_lengths(counts)


@given(st.one_of(st.text(max_size=30), st.text("".join(map(chr, range(48, 112))), max_size=30)), st.data())
def test_no_garbage_reaches_pycocotools(tmp_path_factory, counts, data):
    """Either it is refused by name, or the mask holds exactly the runs of the code."""
    size = [data.draw(st.integers(1, 64)), data.draw(st.integers(1, 64))]
    with suppress(ValueError):
        total = int(run_lengths(counts).sum())
        size = [total, 1] if 0 < total < 10**6 else size
    path = in_file(
        tmp_path_factory.getbasetemp() / "g.json", {"a": {"Edema": {"size": size, "counts": counts}}}
    )
    with suppress(InputError):
        mask = read_segmentations(path).mask("a", "Edema")
        assert mask.shape == tuple(size)
        assert mask.sum() == run_lengths(counts)[1::2].sum()


@given(masks, st.integers(0, 200), st.characters(min_codepoint=40, max_codepoint=120))
def test_damaged_codes_are_refused_or_sound(tmp_path_factory, mask, at, character):
    code = encode(mask)
    at %= len(code["counts"])
    code["counts"] = code["counts"][:at] + character + code["counts"][at + 1 :]
    path = in_file(tmp_path_factory.getbasetemp() / "d.json", {"a": {"Edema": code}})
    with suppress(InputError):
        assert read_segmentations(path).mask("a", "Edema").sum() == run_lengths(code["counts"])[1::2].sum()


def test_runs_of_length_zero_are_mended(tmp_path):
    code = coco.frPyObjects({"size": [10, 1], "counts": [3, 0, 2, 0, 0, 4, 1]}, 10, 1)
    content = {"a": {"Edema": {"size": [10, 1], "counts": code["counts"].decode()}}}
    found = read_segmentations(in_file(tmp_path / "a.json", content)).rle("a", "Edema")
    assert found == encode(np.array([[0, 0, 0, 0, 0, 1, 1, 1, 1, 0]], bool).T)


@pytest.mark.parametrize("lengths", [[12], [0, 12], [3, 4, 5], [0, 1, 10, 1], [3, 0, 2, 0, 0, 4, 3]])
def test_uncompressed_codes_are_read(tmp_path, lengths):
    content = {"a": {"Edema": {"size": [4, 3], "counts": lengths}}}
    expected = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(3, 4).T
    found = read_segmentations(in_file(tmp_path / "a.json", content))
    np.testing.assert_array_equal(found.mask("a", "Edema"), expected)
    assert found.rle("a", "Edema") == encode(expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TASKS, "Lung Opacity", "size", "counts", "img_size", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(JSON)
@pytest.mark.parametrize("read", [read_segmentations, read_annotations])
def test_any_json_is_read_or_refused_in_one_line(tmp_path_factory, read, content):
    path = in_file(tmp_path_factory.getbasetemp() / "any.json", content)
    try:
        read(path)
    except InputError as error:
        message = str(error)
    else:
        return
    assert message.startswith(str(path))
    assert "\n" not in message


GOOD = encode(np.eye(4, dtype=bool))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object of image ids"),
        ("{}", "expected an object of image ids"),
        ('{"a": {"Edema": 1}, "a": {"Edema": 2}}', "'a' is listed twice"),
        ({"\ud800": {"Edema": GOOD}}, "image id .* is not Unicode text"),
        ({"a": []}, "a: expected an object of tasks"),
        ({"a": {"Oedema": GOOD}}, "a: unknown task 'Oedema'"),
        ({"a": {"Lung Opacity": GOOD, "Airspace Opacity": GOOD}}, "under two names"),
        ({"a": {"Edema": "mask"}}, "a, Edema: expected COCO run lengths"),
        ({"a": {"Edema": {"size": [4, 4]}}}, "a, Edema: expected COCO run lengths"),
        (
            {"a": {"Edema": {"size": [4, 4], "counts": []}}},
            "Edema: malformed run-length code, its run lengths",
        ),
        ({"a": {"Edema": {"size": [4, 4], "counts": [-1, 17]}}}, "must be whole numbers of at least 0"),
        ({"a": {"Edema": {"size": [4, 4], "counts": [10**30]}}}, "Edema: malformed run-length code"),
        ({"a": {"Edema": {"size": [4, 4], "counts": [True, 15]}}}, "Edema: malformed run-length code"),
        ({"a": {"Edema": {"size": [4, 4], "counts": [8, 7]}}}, "cover 15 pixels, 4 x 4 are 16"),
        ({"a": {"Edema": {"size": [4, -4], "counts": GOOD["counts"]}}}, r"Edema: \[4, -4\] is not the"),
        ({"a": {"Edema": {"size": [10**6, 10**6], "counts": GOOD["counts"]}}}, "is not the"),
        ({"a": {"Edema": {"size": [4, 5], "counts": GOOD["counts"]}}}, "cover 16 pixels, 4 x 5 are 20"),
        ({"a": {"Edema": {"size": [4, 4], "counts": "P"}}}, "Edema: malformed run-length code"),
        (
            {"a": {"Edema": GOOD, "Lung Lesion": empty(5, 4)}},
            r"Lung Lesion: size \[5, 4\] differs from the \[4, 4\]",
        ),
    ],
)
def test_segmentations_that_are_wrong(tmp_path, content, complaint):
    path = in_file(tmp_path / "s.json", content)
    with pytest.raises(InputError, match=complaint) as error:
        read_segmentations(path)
    assert str(error.value).startswith(str(path))


def test_missing_files_are_named(tmp_path):
    for read in (read_segmentations, read_annotations):
        with pytest.raises(InputError, match=r"none\.json: cannot be read"):
            read(tmp_path / "none.json")


def test_segmentations_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    ten, edema = rng.random((30, 20, 10)) < 0.3, rng.random((8, 9)) < 0.5
    path = tmp_path / "s.json"
    write_segmentations(path, {"b": {"Edema": edema, "Lung Opacity": encode(~edema)}, "a": ten})
    assert list(json.loads(path.read_text())["b"]) == list(TASKS)
    found = read_segmentations(path)
    assert found.ids == ("a", "b")
    assert len(found) == 2
    assert "a" in found
    assert "c" not in found
    assert found.size("b") == (8, 9)
    np.testing.assert_array_equal(found.masks("a"), ten)
    np.testing.assert_array_equal(found.mask("b", "Airspace Opacity"), ~edema)
    np.testing.assert_array_equal(found.mask("b", "Lung Opacity"), ~edema)
    assert not found.mask("b", "Pneumothorax").any()
    assert encode_masks(ten) == dict(found.entries["a"])


def test_writing_takes_images_one_at_a_time_and_never_leaves_half(tmp_path):
    path = tmp_path / "s.json"
    write_segmentations(path, ((name, np.ones((2, 2, 10), bool)) for name in "xy"))
    before = path.read_text()
    with pytest.raises(ValueError, match="one size"):
        write_segmentations(
            path, {"a": {"Edema": np.ones((2, 2), bool), "Lung Lesion": np.ones((2, 3), bool)}}
        )
    assert path.read_text() == before
    assert read_segmentations(path).ids == ("x", "y")


def test_tasks_that_an_image_does_not_list_are_empty(tmp_path):
    found = read_segmentations(in_file(tmp_path / "s.json", {"a": {"Edema": GOOD}}))
    assert found.masks("a").sum(axis=(0, 1))[TASKS.index("Edema")] == 4
    assert found.masks("a").sum() == 4
    assert found.rle("a", "Pneumothorax") == empty(4, 4)


def test_tasks_that_are_not_listed_are_unknown_where_the_task_set_says_so(tmp_path):
    taxonomy = Taxonomy(labels=("Edema", "Nodule"), tasks=("Edema", "Nodule"), missing="unknown")
    path = in_file(tmp_path / "s.json", {"a": {"Edema": GOOD}})
    found = read_segmentations(path, taxonomy)
    assert found.known("a").tolist() == [True, False]
    assert not found.known("not listed").any()
    assert read_segmentations(path).known("a").all()
    assert read_segmentations(path).known("not listed").all()
    write_segmentations(tmp_path / "again.json", {"a": {"Edema": GOOD}}, taxonomy)
    assert json.loads((tmp_path / "again.json").read_text()) == {"a": {"Edema": GOOD}}


def test_wrong_size_and_unknown_image(tmp_path):
    found = read_segmentations(in_file(tmp_path / "s.json", {"a": {"Edema": GOOD}}))
    found.check_size("a", (4, 4))
    with pytest.raises(InputError, match=r"a have height x width 4 x 4, a\.jpg has 4 x 5"):
        found.check_size("a", (4, 5), "a.jpg")
    with pytest.raises(InputError, match="no masks for 'b'"):
        found.masks("b")


def test_polygons_include_their_outline():
    mask = rasterize([np.array([[2.0, 3], [6, 3], [6, 8], [2, 8]])], (12, 10))
    expected = np.zeros((12, 10), bool)
    expected[3:9, 2:7] = True
    np.testing.assert_array_equal(mask, expected)
    both = rasterize([np.array([[0.0, 0], [1, 0]]), np.array([[2.0, 3], [6, 3], [6, 8], [2, 8]])], (12, 10))
    np.testing.assert_array_equal(both & ~expected, np.pad([[True, True]], ((0, 11), (0, 8))))


def test_annotations_round_trip(tmp_path):
    triangle = np.array([[1.123456789, 2.0], [8.5, 3.25], [4.0, 9.75]])
    path = tmp_path / "a.json"
    write_annotations(path, {"a": (12, 10, {"Lung Opacity": [triangle, triangle + 1], "Edema": []})})
    assert set(json.loads(path.read_text())["a"]) == {"img_size", "Airspace Opacity"}
    found = read_annotations(path)["a"]
    assert found.size == (12, 10)
    np.testing.assert_allclose(found.polygons["Airspace Opacity"][0], triangle, atol=1e-5)
    expected = rasterize([triangle, triangle + 1], (12, 10))
    np.testing.assert_array_equal(found.mask("Lung Opacity"), expected)
    np.testing.assert_array_equal(found.masks()[..., TASKS.index("Airspace Opacity")], expected)
    assert found.masks().sum() == expected.sum()


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"Edema": []}, "img_size"),
        ({"img_size": [3], "Edema": []}, "is not the"),
        ({"img_size": [3, 3], "Edema": [[1, 2]]}, "a, Edema: expected polygons"),
        ({"img_size": [3, 3], "Edema": [[[1, 2]]]}, "a, Edema: expected polygons"),
        ({"img_size": [3, 3], "Edema": [[[1, 2], [1e9, 3]]]}, "a, Edema: expected polygons"),
        ({"img_size": [3, 3], "Edema": [[[1, 2], [float("nan"), 3]]]}, "a, Edema: expected polygons"),
        ({"img_size": [3, 3], "Edema": 7}, "a, Edema: expected polygons"),
        ({"img_size": [3, 3], "Heart": []}, "unknown task 'Heart'"),
    ],
)
def test_annotations_that_are_wrong(tmp_path, entry, complaint):
    with pytest.raises(InputError, match=complaint):
        read_annotations(in_file(tmp_path / "a.json", {"a": entry}))


@pytest.mark.real_data
def test_published_polygons_give_the_published_masks(shared, tmp_path):
    sample = shared / "chexlocalize_sample"
    published = read_segmentations(sample / "gt_segmentations_val.json")
    drawn = read_annotations(sample / "gt_annotations_val.json")
    assert set(drawn) == set(published.ids)
    for image_id in published.ids:
        for task in TASKS:
            np.testing.assert_array_equal(drawn[image_id].mask(task), published.mask(image_id, task))
    ours = tmp_path / "gt.json"
    write_segmentations(ours, ((image_id, published.masks(image_id)) for image_id in published.ids))
    assert json.loads(ours.read_text()) == json.loads((sample / "gt_segmentations_val.json").read_text())


@pytest.mark.real_data
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_nih_masks_are_read(shared, split):
    found = read_segmentations(shared / f"nih_cxr/gt_segmentations_{split}.json")
    assert {found.size(image_id) for image_id in found.ids} == {(512, 512)}
    assert sum(found.mask(image_id, "Consolidation").any() for image_id in found.ids) > 5


def test_an_image_that_lists_no_mask_is_not_listed_and_is_named(tmp_path, capsys):
    code = encode(np.ones((2, 3), bool))
    (tmp_path / "hb.json").write_text(json.dumps({"a": {}, "b": {"Edema": code}}))
    assert read_segmentations(tmp_path / "hb.json").ids == ("b",)
    assert "hb.json: 1 images list no mask, and count as not listed: a" in capsys.readouterr().err
