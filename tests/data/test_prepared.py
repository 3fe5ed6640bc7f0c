import numpy as np
import pytest

from chexseg_jax.data.prepared import ImageSource, LabelSource, MaskSource, Prepared, task_labels
from chexseg_jax.data.records import Records
from chexseg_jax.data.taxonomy import LABELS, TASKS
from chexseg_jax.errors import InputError


@pytest.fixture
def prepared() -> Prepared:
    draw = np.random.default_rng(0)
    return Prepared(
        ids=tuple(f"patient{i}_study1_view1_frontal" for i in range(4)),
        images=draw.integers(0, 256, (4, 8, 8), dtype=np.uint8),
        labels=draw.choice([1, 0, -1, np.nan], (4, 14)).astype(np.float32),
        sizes=draw.integers(8, 30, (4, 2), dtype=np.int32),
        masks=draw.integers(0, 1024, (4, 8, 8), dtype=np.uint16),
    )


@pytest.mark.parametrize("masked", [True, False])
def test_round_trip_on_disk(prepared, tmp_path, masked):
    if not masked:
        prepared = prepared.with_masks(None)
    prepared.save(tmp_path)
    loaded = Prepared.load(tmp_path)
    assert isinstance(loaded.images, Records)  # it does not grow with the set in memory
    assert loaded.ids == prepared.ids
    assert loaded.size == 8
    for name in ("images", "labels", "sizes"):
        np.testing.assert_array_equal(getattr(loaded, name)[:], getattr(prepared, name))
    assert (loaded.masks is None) == (not masked)
    if masked:
        np.testing.assert_array_equal(loaded.masks[:], prepared.masks)


def test_a_chosen_set_with_other_masks_points_to_the_images(prepared, tmp_path):
    for name in ("whole", "chosen"):
        (tmp_path / name).mkdir()
    prepared.save(tmp_path / "whole")
    chosen = Prepared.load(tmp_path / "whole").take([3, 1]).with_masks(prepared.masks[:2])
    chosen.save(tmp_path / "chosen")
    (tmp_path / "chosen").rename(tmp_path / "renamed")
    loaded = Prepared.load(tmp_path / "renamed")
    assert loaded.ids == (prepared.ids[3], prepared.ids[1])
    np.testing.assert_array_equal(loaded.images[:], prepared.images[[3, 1]])
    np.testing.assert_array_equal(loaded.masks[:], prepared.masks[:2])
    (tmp_path / "whole").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="images: no records"):
        Prepared.load(tmp_path / "renamed")


def test_which_tasks_the_masks_show(prepared):
    masks = np.zeros((4, 8, 8), np.uint16)
    masks[1, 2, 3], masks[1, 7, 7], masks[2, 0, 0] = 0b1, 0b1000000000, 0b10
    shown = prepared.with_masks(masks).shown()
    assert [list(np.flatnonzero(row)) for row in shown] == [[], [0, 9], [1], []]


def test_take_keeps_the_arrays_aligned(prepared):
    few = prepared.take([2, 0])
    assert few.ids == (prepared.ids[2], prepared.ids[0])
    for name in ("images", "labels", "sizes", "masks"):
        np.testing.assert_array_equal(getattr(few, name), getattr(prepared, name)[[2, 0]])


def test_sources_give_aligned_rows(prepared):
    targets, weights = np.eye(4, 14, dtype=np.float32), np.ones((4, 14), np.float32)
    row = LabelSource(prepared, targets, weights)[3]
    np.testing.assert_array_equal(row["image"], prepared.images[3])
    np.testing.assert_array_equal(row["targets"], targets[3])
    np.testing.assert_array_equal(MaskSource(prepared)[1]["masks"], prepared.masks[1])
    assert len(ImageSource(prepared.images)) == len(MaskSource(prepared)) == 4


def test_task_labels_picks_the_ten_columns():
    columns = task_labels(np.arange(14, dtype=np.float32)[None])
    assert [LABELS[int(i)] for i in columns[0]] == ["Lung Opacity", *TASKS[1:]]
