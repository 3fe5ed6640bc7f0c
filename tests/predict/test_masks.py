import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from chexseg_jax.data.chexlocalize import encode
from chexseg_jax.data.images import resize_map
from chexseg_jax.predict.masks import area, boxes, threshold_map

maps = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(0.125, 1, width=32)
)


@given(maps, st.integers(-2, 40), st.integers(-2, 40), st.data())
def test_the_code_of_a_thresholded_map_is_that_of_the_picture(values, taller, wider, data):
    """The thresholds are values of the resized map too, and their neighbours: one bit more or less would tell."""
    shape = max(1, values.shape[0] + taller), max(1, values.shape[1] + wider)
    picture = resize_map(values, shape)
    limit = float(data.draw(st.sampled_from(picture.ravel().tolist()) | st.floats(0.125, 1)))
    for near in (limit, np.nextafter(limit, -1), np.nextafter(np.float32(limit), np.float32(-1))):
        assert threshold_map(values, shape, float(near)) == encode(picture > np.float64(near))


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_boxes_are_those_of_scipys_parts(mask):
    labels, count = ndimage.label(mask)
    sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
    found = zip(ndimage.find_objects(labels), sizes, strict=True)
    parts = [(x.start, y.start, x.stop, y.stop, size) for (y, x), size in found]
    code = encode(mask)
    assert sorted(map(tuple, boxes(code).tolist())) == sorted(parts)
    assert area(code) == mask.sum()


def test_the_largest_part_comes_first():
    mask = np.zeros((30, 20), bool)
    mask[1:3, 2:5] = mask[10:20, 10:15] = True
    assert boxes(encode(mask)).tolist() == [[10, 10, 15, 20, 50], [2, 1, 5, 3, 6]]
