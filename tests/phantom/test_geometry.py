import numpy as np
from scipy import ndimage

from chexseg_jax.phantom.geometry import Camera, Stroke, blur, clouds, curve, draw

CAMERA = Camera(40, 60, 0.05, (0.1, -0.2), angle=0.3)


def test_pixels_inverts_the_grid():
    u, v = CAMERA.grid()
    y, x = np.indices(u.shape)
    pixels = CAMERA.pixels(np.stack([u.ravel(), v.ravel()], -1))
    np.testing.assert_allclose(pixels, np.stack([x.ravel(), y.ravel()], -1), atol=1e-4)


def test_a_stroke_covers_its_points():
    u, v = CAMERA.grid()
    drawn = draw(CAMERA, [Stroke(np.array([(0.0, 0.0), (0.5, 0.0)]), 0.15)])
    on = drawn > 0.9
    assert on.any()
    assert np.abs(v[on]).max() < 0.1
    assert u[on].min() > -0.1
    assert u[on].max() < 0.6


def test_a_curve_passes_near_its_points_and_stays_flat_beyond():
    line = curve([(0.0, 1.0), (1.0, 2.0), (2.0, 1.5)], smooth=0.01)
    np.testing.assert_allclose(line(np.array([-5, 0.5, 1, 9])), [1, 1.5, 2, 1.5], atol=0.03)


def test_clouds_are_fixed_to_the_body():
    near, far = Camera(32, 32, 0.02), Camera(64, 64, 0.02)
    small, large = (clouds(np.random.default_rng(5), *camera.grid(), 0.3) for camera in (near, far))
    np.testing.assert_allclose(small, large[16:48, 16:48], atol=1e-4)


def test_a_wide_blur_on_the_coarse_copy_is_close_to_the_exact_one():
    image = np.zeros((90, 110), np.float32)
    image[30:60, 40:80] = 1
    assert np.abs(blur(image, 12.0) - ndimage.gaussian_filter(image, 12, mode="nearest")).max() < 0.03
