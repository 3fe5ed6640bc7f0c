import numpy as np
import pytest

from chexseg_jax.data.prepared import ImageSource, LabelSource, MaskSource, Prepared, task_labels
from chexseg_jax.pathologies import LABELS, TASKS


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
    assert isinstance(loaded.images, np.memmap)  # it does not grow with the set in memory
    assert loaded.ids == prepared.ids
    assert loaded.size == 8
    for name in ("images", "labels", "sizes"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(prepared, name))
    assert (loaded.masks is None) == (not masked)
    if masked:
        np.testing.assert_array_equal(loaded.masks, prepared.masks)


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
