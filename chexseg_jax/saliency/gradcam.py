"""Grad-CAM (Selvaraju et al., 2017, arXiv 1610.02391) and Grad-CAM++ (Chattopadhay et al., 2018, 1710.11063).

Other methods of this family need only `feature_maps` and `head_gradients`. LayerCAM, for example, is::

    features = feature_maps(module, variables, images)
    logits, gradients = head_gradients(module, variables, features)
    maps = nn.relu(jnp.einsum("kbhwc,bhwc->bhwk", nn.relu(gradients), features))
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from chexseg_jax.models.cpu import map_images
from chexseg_jax.models.layers import PRECISION, at_least_float32, resize_bilinear


def grad_cam(
    module: nn.Module,
    variables: dict[str, Any],
    images: Float[Array, "B H W channels"],
    *,
    plus_plus: bool = False,
) -> tuple[Float[Array, "B K"], Float[Array, "B h w K"]]:
    """Compute the saliency map of every class.

    The map of class k is ReLU(sum_c alpha_kc A_c), where A_c is channel c of the feature map and alpha_kc the mean
    over pixels of dy_k/dA_c (eq. 1-2).

    Args:
      module: a classifier of `chexseg_jax.models`.
      variables: its variables.
      images: normalised as in the classifier's training.
      plus_plus: use Grad-CAM++'s alpha (eq. 19 of its paper).

    Returns:
      Logits, and one map per class at the feature map's size: >= 0, not normalised.
    """
    features = feature_maps(module, variables, images)
    logits, gradients = head_gradients(module, variables, features)
    alpha = _plus_plus(features, gradients) if plus_plus else gradients.mean((2, 3))
    maps = jnp.einsum("kbc,bhwc->bhwk", alpha, features, precision=PRECISION)
    return logits, nn.relu(maps)


def feature_maps(
    module: nn.Module, variables: dict[str, Any], images: Float[Array, "B H W channels"]
) -> Float[Array, "B h w C"]:
    """Run a classifier's encoder: the feature map that its head reads, in at least float32."""

    def encode(images: Float[Array, "B H W channels"]) -> Float[Array, "B h w C"]:
        return at_least_float32(module.apply(variables, images)[1]["features"])

    return map_images(encode, images)


def head_gradients(
    module: nn.Module, variables: dict[str, Any], features: Float[Array, "B h w C"]
) -> tuple[Float[Array, "B K"], Float[Array, "K B h w C"]]:
    """Run a classifier's head, and differentiate every logit with respect to the feature map.

    Only the head is differentiated, so one encoder pass serves all K classes.

    Returns:
      Logits, and the gradients of every class's logit.
    """

    def classify(features: Float[Array, "B h w C"]) -> Any:
        return module.apply(variables, features, method="classify")

    logits, pull_back = jax.vjp(classify, features)

    def gradient(one_hot: Float[Array, " K"]) -> Float[Array, "B h w C"]:
        return pull_back(jnp.broadcast_to(one_hot, logits.shape))[0]

    return logits, jax.vmap(gradient)(jnp.eye(logits.shape[1]))


def _plus_plus(
    features: Float[Array, "B h w C"], gradients: Float[Array, "K B h w C"]
) -> Float[Array, "K B C"]:
    """Sum ReLU(g) g^2 / (2 g^2 + g^3 sum(A) + 1e-6) over pixels; the 1e-6 is pytorch-grad-cam's."""
    total = features.sum((1, 2), keepdims=True)
    share = gradients**2 / (2 * gradients**2 + total * gradients**3 + 1e-6)
    return jnp.where(gradients != 0, nn.relu(gradients) * share, 0).sum((2, 3))


def upsample(maps: Float[Array, "B h w K"], size: tuple[int, int]) -> Float[Array, "B H W K"]:
    """Resize maps to `size` (height, width): bilinear, half-pixel centres, like torch's `align_corners=False`."""
    return resize_bilinear(maps, size, align_corners=False)


def scale_to_unit(maps: Float[Array | np.ndarray, "B H W K"]) -> Float[Array, "B H W K"]:
    """Scale each map to [0, 1): (m - min) / (max - min + 1e-7), as pytorch-grad-cam does. A flat map becomes 0."""
    above = jnp.asarray(maps) - maps.min((1, 2), keepdims=True)
    return above / (above.max((1, 2), keepdims=True) + 1e-7)


def scale_within_picture(
    maps: Float[Array, "B h w K"], windows: Int[Array, "B 4"], size: int, *, stride: int = 1
) -> tuple[Float[Array, "B S S K"], Bool[Array, "B S S 1"]]:
    """Resize maps of letterboxed images to S = size // stride, and scale them to [0, 1) over the picture alone.

    The padding around the picture gets 0: no finding can lie there.

    Args:
      maps: at any resolution.
      windows: first row, first column, rows and columns of each picture in its square, in pixels.
      size: side of the square in pixels.
      stride: pixels of the square per pixel of the result, in each direction.

    Returns:
      The scaled maps, and the pixels whose centre lies in the picture.
    """
    side = size // stride
    centres = stride * (jnp.arange(side) + 0.5)
    first, count = windows[:, None, :2], windows[:, None, 2:]
    inside = (centres[:, None] > first) & (centres[:, None] < first + count)  # [B, S, (row, column)]
    picture = inside[:, :, None, :1] & inside[:, None, :, 1:]
    maps = upsample(maps, (side, side))
    lowest = jnp.min(maps, (1, 2), where=picture, initial=jnp.inf, keepdims=True)
    return scale_to_unit(jnp.where(picture, maps - lowest, 0)), picture
