import numpy as np
import pytest
from scipy import ndimage

from chexseg_jax.data.chexlocalize import rasterize
from chexseg_jax.phantom.contours import trace


@pytest.mark.parametrize("grain", [0, 1, 3])
def test_rasterised_polygons_equal_the_mask_with_its_holes(grain):
    noise = np.random.default_rng(grain).standard_normal((60, 80))
    mask = ndimage.gaussian_filter(noise, grain) > 0
    assert (ndimage.binary_fill_holes(mask) & ~mask).any()
    np.testing.assert_array_equal(rasterize(trace(mask), mask.shape), mask)


def test_an_empty_mask_has_no_polygon_and_a_single_pixel_has_one():
    mask = np.zeros((5, 7), bool)
    assert trace(mask) == []
    mask[2, 3] = True
    np.testing.assert_array_equal(rasterize(trace(mask), mask.shape), mask)
