import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chexseg_jax.data.chexlocalize import decode, encode
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.drawing import agreed, from_box, from_coco, from_runs, outlines, union


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_polygons_of_any_mask_give_it_back(mask):
    polygons = outlines(mask)
    if not mask.any():
        assert polygons == []
        return
    assert np.array_equal(decode(from_coco(polygons, mask.shape, "m")), mask)
    for polygon in polygons:  # along pixel edges, no corner twice: what annotation programs can edit
        corners = list(zip(polygon[::2], polygon[1::2], strict=True))
        assert len(set(corners)) == len(corners)


def test_a_mask_may_have_more_holes_than_python_has_stack():
    mask = np.zeros((3, 2100), bool)
    mask[:, 1:-1] = True
    mask[1, 2:-2:2] = False
    assert np.array_equal(decode(from_coco(outlines(mask), mask.shape, "m")), mask)


def test_a_rectangle_has_four_corners():
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    assert outlines(mask) == [[2, 1, 7, 1, 7, 4, 2, 4]]


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [3, 4], "counts": [4, 2, 6]},  # uncompressed
        {"size": [3, 4], "counts": encode(np.array([[0] * 4, [0, 1, 0, 0], [0, 1, 0, 0]], bool))["counts"]},
        [[1, 1, 2, 1, 2, 3, 1, 3]],
    ],
)
def test_the_three_forms_of_coco_are_one_mask(segmentation):
    mask = np.zeros((3, 4), bool)
    mask[1:3, 1] = True
    assert np.array_equal(decode(from_coco(segmentation, (3, 4), "m")), mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 3], "counts": [12]}, "its image has"),
        ({"size": [3, 4], "counts": [11]}, "cover 11 pixels"),
        ([[1, 1, 2, 2]], "at least three corners"),
        ([[1, 1, 2, 2, 3]], "at least three corners"),
        ([[1, 1, 2, 2, 3, float("nan")]], "at least three corners"),
        ([[1, 1, 2, 2, 3, 1e9]], "at least three corners"),
        ("abc", "list of polygons"),
    ],
)
def test_a_malformed_segmentation_is_told(segmentation, message):
    with pytest.raises(InputError, match=message):
        from_coco(segmentation, (3, 4), "m")


def test_boxes_union_and_agreement():
    left, right = from_box((0.0, 0.0, 3.0, 2.0), (2, 5), "a"), from_box((2.0, 0.0, 5.0, 2.0), (2, 5), "b")
    assert decode(left).tolist() == [[1, 1, 1, 0, 0]] * 2
    assert decode(union([left, right])).all()
    assert decode(agreed([left, right], 2)).tolist() == [[0, 0, 1, 0, 0]] * 2
    for box in (
        (0.0, 0.0, 0.0, 2.0),
        (3.0, 0.0, 9.0, 2.0),
        (-4.0, 0.0, 2.0, 2.0),
        (float("nan"), 0.0, 2.0, 2.0),
    ):
        with pytest.raises(InputError, match="resized"):
            from_box(box, (2, 5), "a")


def test_runs_go_down_the_columns():
    assert decode(from_runs([1, 2, 1, 1], (3, 2))).tolist() == [[0, 0], [1, 1], [1, 0]]
    for runs in ([5, 2], [1, -1]):
        with pytest.raises(ValueError, match="do not fit"):
            from_runs(runs, (3, 2))
