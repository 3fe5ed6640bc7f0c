import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from chexseg_jax.data.chexpert import positive_tasks
from chexseg_jax.data.images import Frame, pack_masks, resize_map
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError
from chexseg_jax.saliency.thresholds import otsu
from chexseg_jax.stages import pseudo_masks as stage
from chexseg_jax.stages.pseudo_masks import draw_positives, draw_pseudo_set, make_pseudo_masks

TASKS, LABELS = CHEXPERT.tasks, CHEXPERT.labels
EDEMA, LESION = TASKS.index("Edema"), TASKS.index("Lung Lesion")
SIZE = 32


def labels(*positive: str) -> np.ndarray:
    row = np.zeros(14, np.float32)
    row[[LABELS.index(CHEXPERT.label(name)) for name in positive]] = 1
    return row


@pytest.fixture
def folders(tmp_path):
    """Maps whose Edema is a ramp, and expert masks that are what lies above 0.6 of it."""
    ramp = np.broadcast_to(np.linspace(0, 5, SIZE, dtype=np.float32), (SIZE, SIZE))
    maps = np.zeros((3, SIZE, SIZE, 10), np.float32)
    maps[..., EDEMA] = maps[..., LESION] = ramp
    masks = np.zeros((3, SIZE, SIZE, 10), bool)
    masks[..., EDEMA] = ramp / 5 > 0.61
    prepared = Prepared(
        ids=("a", "b", "c"),
        images=np.zeros((3, SIZE, SIZE), np.uint8),
        labels=np.stack([labels("Edema"), labels("Edema", "Lung Lesion"), labels("Fracture")]),
        sizes=np.full((3, 2), SIZE, np.int32),
        taxonomy=CHEXPERT,
        masks=pack_masks(masks),
    )
    for name, value in (("expert", prepared), ("weak", prepared.with_masks(None))):
        (tmp_path / name).mkdir()
        value.save(tmp_path / name)
    write_rows(tmp_path / "maps", 3, {"maps": "raw"}, lambda rows: ({"maps": maps[i]} for i in rows))
    return tmp_path


def make(folders, *, weak="weak", weak_rows=(0, 1, 2), weak_maps="maps", **settings):
    part = folders / f"made{len(list(folders.glob('made*')))}"
    part.mkdir()
    make_pseudo_masks(
        part,
        **{"threshold": "tuned", "gate": True, "degenerate": "keep", "uncertainty": "zeros"} | settings,
        weak=folders / weak,
        weak_rows=np.array(weak_rows),
        weak_maps=folders / weak_maps,
        expert=folders / "expert",
        expert_rows=np.arange(3),
        expert_maps=folders / "maps",
    )
    return part


def test_thresholds_are_those_the_expert_masks_were_made_with(folders):
    made = make(folders)
    thresholds = json.loads((made / "thresholds.json").read_text())
    assert thresholds["Edema"] == 0.6
    assert thresholds["Lung Lesion"] == 0.5  # no expert image shows one
    quality = json.loads((made / "quality.json").read_text())
    assert quality["masks"]["Edema"] > 0.95
    assert quality["box"]["Edema"] < 0.5  # as large, but centred
    assert quality["masks"]["Lung Lesion"] is None


def test_a_negative_label_empties_the_mask(folders):
    masks = Prepared.load(make(folders)).read_masks(slice(None))
    expected = Prepared.load(folders / "expert").read_masks(slice(None))[0, ..., EDEMA]
    assert (masks[0, ..., EDEMA] != expected).mean() < 0.05
    assert masks[1, ..., LESION].any()
    assert not masks[0, ..., LESION].any()
    assert not masks[2].any()
    ungated = Prepared.load(make(folders, gate=False)).read_masks(slice(None))
    assert ungated[2, ..., EDEMA].any()


def test_one_number_is_a_threshold_for_all_tasks(folders):
    made = make(folders, threshold=0.25)
    assert set(json.loads((made / "thresholds.json").read_text()).values()) == {0.25}
    assert Prepared.load(made).read_masks(slice(None))[0, ..., EDEMA].mean() == pytest.approx(0.75, abs=0.05)


def test_the_mask_of_an_ignored_label_is_unknown(folders):
    weak = Prepared.load(folders / "weak")
    uncertain = weak.labels.copy()
    uncertain[0, LABELS.index("Pneumothorax")] = -1
    (folders / "uncertain").mkdir()
    dataclasses.replace(weak, labels=uncertain).save(folders / "uncertain")
    settings = {"weak": "uncertain", "uncertainty": "ignore"}
    known = Prepared.load(make(folders, **settings)).known
    assert not known[0, TASKS.index("Pneumothorax")]
    assert known.sum() == known.size - 1


@pytest.mark.parametrize(
    ("threshold", "masks", "reason"),
    [("tuned", "all", "an end of the grid"), (0.5, "centre", "a centred box")],
)
def test_a_degenerate_threshold_is_said_and_its_masks_can_be_unknown(
    folders, threshold, masks, reason, capsys
):
    """The map is a ramp, so an expert mask of everything asks for threshold 0, and one of the centre for a box."""
    expert = Prepared.load(folders / "expert")
    drawn = np.zeros((3, SIZE, SIZE, 10), bool)
    drawn[..., EDEMA] = masks == "all"
    drawn[:, 8:24, 8:24, EDEMA] = True
    shutil.rmtree(folders / "expert")
    (folders / "expert").mkdir()
    in_memory = dataclasses.replace(expert, images=np.zeros((3, SIZE, SIZE), np.uint8))
    in_memory.with_masks(pack_masks(drawn)).save(folders / "expert")
    made = make(folders, threshold=threshold)
    assert list(json.loads((made / "quality.json").read_text())["degenerate"]) == ["Edema"]
    assert reason in capsys.readouterr().err
    assert Prepared.load(made).known.all()
    known = Prepared.load(make(folders, threshold=threshold, degenerate="unknown")).known
    assert not known[:, EDEMA].any()
    assert known.sum() == known.size - 3


@pytest.mark.parametrize(("threshold", "fallback"), [("tuned", True), ("otsu", False), (0.95, False)])
def test_only_a_tuned_threshold_has_a_fallback_and_ends_of_a_grid(folders, threshold, fallback, capsys):
    made = make(folders, threshold=threshold, degenerate="unknown")
    assert ("no expert training image has Airspace Opacity" in capsys.readouterr().err) == fallback
    assert json.loads((made / "quality.json").read_text())["degenerate"] == {}
    assert Prepared.load(made).known.all()


def test_quality_is_the_mean_iou_over_the_images_that_show_the_task(folders):
    """The first shows an Edema that its flat map misses; the second, a wide picture, one; the third none."""
    ramp = np.broadcast_to(np.linspace(0, 1, SIZE, dtype=np.float32), (SIZE, SIZE))
    picture, right = np.zeros((SIZE, SIZE), bool), np.arange(SIZE) > 18
    picture[8:24] = True
    maps, masks = np.zeros((3, SIZE, SIZE, 10), np.float32), np.zeros((3, SIZE, SIZE, 10), bool)
    maps[1:, ..., EDEMA], masks[0, ..., EDEMA], masks[1, ..., EDEMA] = ramp, right, right & picture
    expert = dataclasses.replace(
        Prepared.load(folders / "expert"),
        images=np.zeros((3, SIZE, SIZE), np.uint8),
        sizes=np.array([[SIZE, SIZE], [SIZE // 2, SIZE], [SIZE, SIZE]]),
    )
    for name in ("expert", "maps"):
        shutil.rmtree(folders / name)
    (folders / "expert").mkdir()
    expert.with_masks(pack_masks(masks)).save(folders / "expert")
    write_rows(folders / "maps", 3, {"maps": "raw"}, lambda rows: ({"maps": maps[i]} for i in rows))

    def iou(mask):
        return (mask & masks[1, ..., EDEMA]).sum() / (mask | masks[1, ..., EDEMA]).sum()

    found = (ramp > 0.4) & picture
    share, box = found.sum() / picture.sum(), np.zeros_like(picture)
    height, width = round(16 * share**0.5), round(32 * share**0.5)
    top, left = 8 + (16 - height) // 2, (32 - width) // 2
    box[top : top + height, left : left + width] = True
    quality = json.loads((make(folders, threshold=0.4) / "quality.json").read_text())
    assert quality["masks"]["Edema"] == pytest.approx(iou(found) / 2, abs=1e-4)
    assert quality["box"]["Edema"] == pytest.approx(iou(box) / 2, abs=1e-4)
    assert quality["masks"]["Lung Lesion"] is None


def test_the_masks_of_tasks_that_an_imported_classifier_does_not_know_are_unknown(
    folders, monkeypatch, capsys
):
    outputs = np.arange(10) - 1  # the first task has none, the second the first
    model = SimpleNamespace(outputs_of=lambda _: outputs)
    monkeypatch.setattr(stage, "restore", lambda _: model)
    known = Prepared.load(make(folders, imported=folders)).known
    np.testing.assert_array_equal(known, np.tile(outputs >= 0, (3, 1)))
    assert f"{TASKS[0]}: the classifier has no output for it" in capsys.readouterr().err


def test_pseudo_masks_that_are_all_unknown_are_refused(folders, monkeypatch):
    """A segmentation would train on them to the end, with a loss of 0."""
    model = SimpleNamespace(outputs_of=lambda _: np.arange(10) - 9)  # the last task alone has an output
    monkeypatch.setattr(stage, "restore", lambda _: model)
    weak = Prepared.load(folders / "weak")
    (folders / "uncertain").mkdir()
    uncertain = weak.labels.copy()
    uncertain[:, LABELS.index(TASKS[-1])] = -1
    dataclasses.replace(weak, labels=uncertain).save(folders / "uncertain")
    with pytest.raises(InputError, match="those of all tasks are unknown"):
        make(folders, imported=folders, weak="uncertain", uncertainty="ignore")
    assert Prepared.load(make(folders, imported=folders)).known.sum() == 3


def test_an_unknown_expert_mask_tunes_no_threshold(folders):
    """The maps of the third image would ask for another threshold, but its mask is unknown."""
    expert = Prepared.load(folders / "expert")
    masks = expert.read_masks(slice(None))
    masks[2, ..., EDEMA] = True
    known = np.ones((3, 10), bool)
    known[2, EDEMA] = False
    shutil.rmtree(folders / "expert")
    (folders / "expert").mkdir()
    in_memory = dataclasses.replace(expert, images=np.zeros((3, SIZE, SIZE), np.uint8))
    in_memory.with_masks(pack_masks(masks), known).save(folders / "expert")
    assert json.loads((make(folders) / "thresholds.json").read_text())["Edema"] == 0.6


def test_otsu_needs_no_masks(folders):
    made = make(folders, threshold="otsu")
    assert json.loads((made / "thresholds.json").read_text()) is None
    share = Prepared.load(made).read_masks(slice(None))[0, ..., EDEMA].mean()
    assert share == pytest.approx(0.5, abs=0.05)  # Otsu halves a ramp


def test_images_with_a_positive_task_are_drawn_and_small_draws_are_part_of_large_ones(folders):
    weak = Prepared.load(folders / "weak")
    assert draw_positives(weak, count=0, uncertainty="zeros", seed=0).tolist() == [0, 1]
    assert draw_positives(weak, count=10, uncertainty="zeros", seed=0).tolist() == [0, 1]
    drawn = {int(*draw_positives(weak, count=1, uncertainty="zeros", seed=seed)) for seed in range(20)}
    assert drawn == {0, 1}
    many = weak.take([0] * 50)
    few, more = (set(draw_positives(many, count=count, uncertainty="zeros", seed=3)) for count in (10, 20))
    assert (len(few), len(more)) == (10, 20)
    assert few < more


def test_the_pseudo_set_is_a_draw_of_the_positives():
    positives = np.array([3, 5, 8, 13])
    drawn = {tuple(draw_pseudo_set(positives, count=2, seed=seed)) for seed in range(40)}
    assert len(drawn) == 6
    with pytest.raises(InputError, match=r"10 pseudo-masks need as many .* only 4 have one: give fewer"):
        draw_pseudo_set(positives, count=10, seed=0)


def test_uncertain_labels_follow_the_policy():
    row = labels("Edema")[None]
    row[0, LABELS.index("Pneumothorax")] = -1
    pneumothorax = TASKS.index("Pneumothorax")
    assert not positive_tasks(row, "zeros", CHEXPERT)[0, pneumothorax]
    assert positive_tasks(row, "ones", CHEXPERT)[0, pneumothorax]
    assert not positive_tasks(row, "ignore", CHEXPERT)[0, pneumothorax]
    assert positive_tasks(row, "zeros", CHEXPERT)[0, EDEMA]


@pytest.mark.parametrize("threshold", ["tuned", "otsu"])
def test_masks_are_what_the_definition_says(folders, threshold):
    """Upsampled, blank beside the picture, scaled to [0, 1), above the threshold, where the label lets it be."""
    draw = np.random.default_rng(0)
    maps = np.maximum(draw.normal(size=(20, 5, 5, 10)), 0).astype(np.float32)
    rows = draw.permutation(20)[:18]
    prepared = Prepared(
        ids=tuple(f"image{i}" for i in range(20)),
        images=draw.integers(0, 256, (20, SIZE, SIZE), np.uint8),
        labels=(draw.random((20, 14)) < 0.5).astype(np.float32),
        sizes=draw.integers(20, 40, (20, 2)),
        taxonomy=CHEXPERT,
    )
    (folders / "more").mkdir()
    prepared.save(folders / "more")
    write_rows(folders / "walks", 18, {"maps": "raw"}, lambda some: ({"maps": maps[rows[i]]} for i in some))
    made = make(folders, threshold=threshold, weak="more", weak_rows=rows, weak_maps="walks")
    pseudo = Prepared.load(made)
    thresholds = json.loads((made / "thresholds.json").read_text())
    assert pseudo.ids == tuple(prepared.ids[i] for i in rows)
    np.testing.assert_array_equal(pseudo.images[:], prepared.images[rows])
    positive = positive_tasks(prepared.labels, "zeros", CHEXPERT)
    for found, i in zip(pseudo.read_masks(slice(None)), rows, strict=True):
        scores = resize_map(maps[i], (SIZE, SIZE))
        beside = np.ones((SIZE, SIZE), bool)
        beside[Frame(*map(int, prepared.sizes[i]), SIZE).window] = False
        scores -= scores[~beside].min(0)
        scores[beside] = 0
        scores /= scores.max((0, 1)) + np.float32(1e-7)
        limits = [thresholds[task] for task in TASKS] if thresholds else otsu(scores, ~beside[..., None])
        np.testing.assert_array_equal(found, (scores > np.float32(limits)) & positive[i])
