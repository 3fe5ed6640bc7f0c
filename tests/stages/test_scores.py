import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import Prepared
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


def test_counts_of_a_run(tiny_run):
    workdir, _ = tiny_run
    (scores,) = [p for p in workdir.glob("artifacts/scores-*") if (p / "weak_masks.npy").exists()][:1]
    counts = load_counts(scores)
    assert set(counts) == {"model", "box", "reader"}
    for table in counts.values():
        np.testing.assert_array_equal(table.positives, counts["model"].positives)
        assert (table.intersections <= np.minimum(table.positives, table.unions)).all()
        assert (table.unions >= table.positives).all()
