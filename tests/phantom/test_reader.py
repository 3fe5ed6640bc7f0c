import numpy as np

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.phantom import render
from chexseg_jax.phantom.reader import second_reading


def test_the_second_reader_disagrees_as_radiologists_do(tree):
    """Pooled IoU on 80 images; the docstring's figures come from 150 at 192 px."""
    truth = read_segmentations(tree / "gt_segmentations_test.json")
    reading = read_segmentations(tree / "hb_segmentations_test.json")
    assert truth.ids == reading.ids
    one, two = (np.concatenate([f.masks(i).reshape(-1, 10) for i in truth.ids]) for f in (truth, reading))
    iou = (one & two).sum(0) / (one | two).sum(0)
    assert (iou > 0.15).all(), dict(zip(TASKS, iou, strict=True))
    assert (iou < 0.85).all(), dict(zip(TASKS, iou, strict=True))
    assert 0.4 < iou.mean() < 0.65


def test_the_reading_of_a_view_is_always_the_same(view):
    shown = view("Edema", "Support Devices")
    drawn = render(shown)
    first, again = (second_reading(shown, drawn.scene, drawn.masks) for _ in range(2))
    assert all(np.array_equal(first[task], again[task]) for task in TASKS)
