import numpy as np

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom import render
from chexseg_jax.phantom.reader import second_reading


def test_the_second_reader_disagrees_as_much_as_radiologists(tree):
    """Pooled IoU on the images with a finding of 80; the figures of the module docstring come from 150 at 192 px."""
    truth = read_segmentations(tree / "gt_segmentations_test.json")
    reading = read_segmentations(tree / "hb_segmentations_test.json")
    assert truth.ids == reading.ids
    one, two = (
        np.concatenate([f.masks(i).reshape(-1, len(CHEXPERT.tasks)) for i in truth.ids])
        for f in (truth, reading)
    )
    iou = (one & two).sum(0) / (one | two).sum(0)
    assert (iou > 0.15).all(), dict(zip(CHEXPERT.tasks, iou, strict=True))
    assert (iou < 0.85).all(), dict(zip(CHEXPERT.tasks, iou, strict=True))
    assert 0.4 < iou.mean() < 0.65


def test_a_view_always_gets_the_same_reading(view):
    example = view("Edema", "Support Devices")
    drawn = render(example)
    first, again = (second_reading(example, drawn.scene, drawn.masks) for _ in range(2))
    assert all(np.array_equal(first[task], again[task]) for task in CHEXPERT.tasks)
