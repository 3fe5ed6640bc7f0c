import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.evaluation.iou import counts
from chexseg_jax.stages.scores import centred_boxes, load_counts, mask_shares


@given(height=st.integers(4, 60), width=st.integers(4, 60), share=st.floats(0, 1))
def test_a_box_is_centred_and_has_the_area_asked_for(height, width, share):
    (box,) = np.moveaxis(centred_boxes((height, width), np.array([share])), -1, 0)
    assert abs(box.sum() - share * height * width) <= height + width
    for axis in (0, 1):
        along = box.any(1 - axis)
        if along.any():
            before, after = along.argmax(), along[::-1].argmax()
            assert abs(int(before) - int(after)) <= 1


def test_shares_are_of_the_picture_without_its_padding():
    masks = np.zeros((2, 16, 16, 10), bool)
    masks[0, 4:8, :, 2] = True  # half of a picture that fills rows 4 to 11
    images = np.zeros((2, 16, 16), np.uint8)
    prepared = Prepared(
        ("a", "b"), images, np.zeros((2, 14)), np.array([[20, 40], [40, 40]]), pack_masks(masks)
    )
    shares = mask_shares(prepared)
    assert shares[2] == pytest.approx(0.5)
    assert shares.sum() == shares[2]


def test_counts_of_a_run_are_those_of_its_masks(tiny_run):
    workdir, _ = tiny_run
    (scores,) = [p for p in workdir.glob("artifacts/scores-*") if (p / "weak_masks.npy").exists()][:1]
    found = load_counts(scores)
    assert set(found) == {"model", "box", "reader"}
    (data,) = workdir.glob("artifacts/phantom-*/data")
    truth, reader = (read_segmentations(data / f"{whose}_segmentations_test.json") for whose in ("gt", "hb"))
    prepared = Prepared.load(next(workdir.glob("artifacts/prepare-test-*")))
    for name, masks in (("model", read_segmentations(scores / "predictions.json")), ("reader", reader)):
        expected = [counts(masks.masks(i), truth.masks(i)) for i in prepared.ids]
        np.testing.assert_array_equal(found[name], np.stack(expected, 1))
    # A box is the same share of every image, and in its middle.
    box = found["box"]
    np.testing.assert_array_equal(box.positives, found["model"].positives)
    height, width = prepared.sizes[0]
    one = box.predicted[0, 2] / (height * width)
    np.testing.assert_allclose(box.predicted[:, 2] / prepared.sizes.prod(1), one, atol=0.05)
