import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import FOLDER, distance, images, jit, nchw, peer

from chexseg_jax.saliency.gradcam import (
    feature_maps,
    grad_cam,
    head_gradients,
    scale_to_unit,
    scale_within_picture,
    upsample,
)


@pytest.fixture(scope="module")
def published():
    with np.load(FOLDER / "gradcam_densenet121.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def cams():
    """DenseNet121's logits, maps by Grad-CAM and by Grad-CAM++, and features."""
    module, variables = peer("densenet121").module, peer("densenet121").variables

    @jit
    def both(variables, images):
        logits, maps = grad_cam(module, variables, images)
        _, out = module.apply(variables, images)
        return logits, maps, grad_cam(module, variables, images, plus_plus=True)[1], out["features"]

    return both(variables, images("x", 96, 2))


def test_raw_maps(cams, published):
    logits, maps, plus_plus, _ = cams
    assert distance(logits, peer("densenet121").expected["eval_logits"]) < 1e-5
    assert distance(nchw(maps), published["raw_map"]) < 1e-5
    assert distance(nchw(plus_plus), published["raw_map_plusplus"]) < 1e-5


def at_image_size(maps):
    """Maps as the peer's arrays hold them: every fifth of the image's 96 pixels."""
    return nchw(upsample(maps, (96, 96)))[:, :, ::5, ::5]


def test_upsampled(cams, published):
    assert distance(at_image_size(cams[1]), published["upsampled"]) < 1e-5


@pytest.mark.parametrize(("index", "name"), [(1, "peer_normalised"), (2, "peer_normalised_plusplus")])
def test_scaled(cams, published, index, name):
    maps = scale_to_unit(upsample(scale_to_unit(cams[index]), (96, 96)))  # twice, as the peer does
    assert distance(nchw(maps)[:, :, ::5, ::5], published[name]) < 1e-4


def test_linear_head_in_closed_form(cams):
    """For a ReLU, global pooling and a linear layer, dy_k/dA_c = W_ck / (h w) where A_c > 0."""
    features = np.asarray(cams[3], np.float64)
    weights = np.asarray(peer("densenet121").variables["params"]["classifier"]["kernel"], np.float64)
    height, width = features.shape[1:3]
    alpha = (features > 0).mean((1, 2))[:, :, None] * weights / (height * width)
    expected = np.maximum(np.einsum("bck,bhwc->bhwk", alpha, features), 0)
    assert distance(cams[1], expected) < 1e-5


def test_head_gradients_are_those_of_each_logit():
    module, variables = peer("densenet121").module, peer("densenet121").variables
    features = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 3, 1024)), jnp.float32)
    logits, gradients = jit(lambda v, a: head_gradients(module, v, a))(variables, features)
    assert gradients.shape == (14, 2, 3, 3, 1024)

    def logit(features):
        return module.apply(variables, features, method="classify")[1, 5]

    value, expected = jax.value_and_grad(logit)(features)
    np.testing.assert_allclose(logits[1, 5], value, rtol=1e-5)
    assert distance(gradients[5, 1], expected[1]) < 1e-6
    assert not expected[0].any()


def test_resnet_maps():
    """A ResNet's map follows its last ReLU, so every gradient is W_ck / (h w)."""
    module, variables = peer("resnet18").module, peer("resnet18").variables
    x = images("x", 96, 2)
    logits, maps = jit(lambda v, x: grad_cam(module, v, x))(variables, x)
    expected_logits, out = jit(module.apply)(variables, x)
    weights = np.asarray(variables["params"]["fc"]["kernel"], np.float64) / maps[0, :, :, 0].size
    expected = np.maximum(np.asarray(out["features"], np.float64) @ weights, 0)
    assert distance(maps, expected) < 1e-5
    assert distance(logits, expected_logits) < 1e-6
    features = jit(lambda v, x: feature_maps(module, v, x))(variables, x)
    assert distance(features, out["features"]) < 1e-5


def test_a_flat_map_scales_to_zero():
    assert not scale_to_unit(np.full((1, 4, 4, 2), 3.0, np.float32)).any()


#: A picture twice as wide as high, in the middle of a square of 32 pixels.
WIDE = jnp.array([[8, 0, 16, 32]])


def test_saliency_on_the_padding_is_ignored():
    maps = np.zeros((1, 32, 32, 1), np.float32)
    maps[0, 0] = 9
    maps[0, 16, 5] = 3
    scaled = np.asarray(scale_within_picture(jnp.asarray(maps), WIDE, 32)[0])[0, ..., 0]
    assert scaled[0].max() == 0
    assert scaled[16, 5] == pytest.approx(1)


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("tasks", [1, 64])
def test_the_picture_alone_sets_the_scale(stride, tasks):
    maps = jnp.asarray(np.random.default_rng(0).random((1, 5, 5, tasks), np.float32) * 7 + 1)
    scaled, picture = scale_within_picture(maps, WIDE, 32, stride=stride)
    assert scaled.shape == (1, 32 // stride, 32 // stride, tasks)
    rows = slice(8 // stride, 24 // stride)
    inside = np.zeros(picture.shape, bool)
    inside[:, rows] = True
    np.testing.assert_array_equal(picture, inside)
    np.testing.assert_allclose(np.min(scaled[0, rows], (0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(np.max(scaled[0, rows], (0, 1)), 1, atol=1e-6)


def test_a_picture_without_any_pixel_centre_has_no_saliency():
    scaled, picture = scale_within_picture(jnp.ones((1, 8, 8, 2)), jnp.array([[16, 0, 1, 32]]), 32, stride=4)
    assert not picture.any()
    assert not np.any(scaled)  # nan would count as true
