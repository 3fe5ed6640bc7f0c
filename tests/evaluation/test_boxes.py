import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.evaluation.boxes import centred_boxes, mask_shares


@given(height=st.integers(4, 60), width=st.integers(4, 60), share=st.floats(0, 1))
def test_a_box_is_centred_and_has_the_requested_area(height, width, share):
    (box,) = np.moveaxis(centred_boxes((height, width), np.array([share])), -1, 0)
    assert abs(box.sum() - share * height * width) <= height + width
    for axis in (0, 1):
        profile = box.any(1 - axis)
        if profile.any():
            before, after = profile.argmax(), profile[::-1].argmax()
            assert abs(int(before) - int(after)) <= 1


def prepared(masks, known=None):
    sizes = np.array([[20, 40], [40, 40], [40, 40]])
    tasks = ("Nodule", "Scar", "Fracture")
    return Prepared(
        ("a", "b", "c"),
        np.zeros((3, 16, 16), np.uint8),
        np.zeros((3, 3)),
        sizes,
        Taxonomy(labels=tasks, tasks=tasks),
        pack_masks(masks),
        known,
    )


def test_shares_are_of_the_image_without_its_padding():
    masks = np.zeros((3, 16, 16, 3), bool)
    masks[0, 4:8, :, 2] = True  # half of an image that fills rows 4 to 11
    assert mask_shares(prepared(masks)).tolist() == [0, 0, 0.5]


def test_shares_are_means_over_known_masks_with_a_pixel():
    masks = np.zeros((3, 16, 16, 3), bool)
    masks[1:, :4, :, 0] = True  # a quarter in two images, nothing in the first
    masks[1, 4:8, :, 0] = True
    assert mask_shares(prepared(masks)).tolist() == pytest.approx([0.375, 0, 0])
    known = np.ones((3, 3), bool)
    known[1, 0] = False
    assert mask_shares(prepared(masks, known)).tolist() == pytest.approx([0.25, 0, 0])
