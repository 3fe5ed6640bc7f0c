"""Grad-CAM (Selvaraju et al., 2017, arXiv 1610.02391) and Grad-CAM++ (Chattopadhay et al., 2018, 1710.11063)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from chexseg_jax.models.layers import at_least_float32, resize_bilinear


def grad_cam(
    module: nn.Module,
    variables: dict[str, Any],
    images: Float[Array, "b height width 3"],
    *,
    plus_plus: bool = False,
) -> tuple[Float[Array, "b k"], Float[Array, "b h w k"]]:
    """Saliency maps of every class c: ReLU(sum_k alpha_k A_k), alpha_k the mean over pixels of dy_c/dA_k (eq. 1-2).

    Args:
      module: a classifier of `chexseg_jax.models`.
      variables: its variables.
      images: normalised as the classifier was trained.
      plus_plus: Grad-CAM++'s weights: positive gradients, weighted by eq. 19 of its paper.

    Returns:
      Logits and, at the feature map's size, one map a class: >= 0, not normalised.
    """

    def encode(images: Float[Array, "b height width 3"]) -> Float[Array, "b h w c"]:
        return at_least_float32(module.apply(variables, images)[1]["features"])

    if jax.default_backend() == "cpu":  # one image's maps stay in the caches
        features = lax.map(lambda image: encode(image[None])[0], images)
    else:
        features = encode(images)
    # The encoder runs once for all classes: from the features on, only the head is differentiated.
    logits, pull_back = jax.vjp(lambda a: module.apply(variables, a, method="classify"), features)

    def weights(one_hot: Float[Array, " k"]) -> Float[Array, "b c"]:
        (gradient,) = pull_back(jnp.broadcast_to(one_hot, logits.shape))
        return _plus_plus(features, gradient) if plus_plus else gradient.mean((1, 2))

    alpha = jax.vmap(weights, out_axes=1)(jnp.eye(logits.shape[1]))
    maps = jnp.einsum("bkc,bhwc->bhwk", alpha, features, precision=lax.Precision.HIGHEST)
    return logits, nn.relu(maps)


def _plus_plus(features: Float[Array, "b h w c"], gradient: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    """Sum over pixels of ReLU(g) g^2 / (2 g^2 + g^3 sum(A) + 1e-6), the 1e-6 as pytorch-grad-cam has it."""
    total = features.sum((1, 2), keepdims=True)
    share = gradient**2 / (2 * gradient**2 + total * gradient**3 + 1e-6)
    return jnp.where(gradient != 0, nn.relu(gradient) * share, 0).sum((1, 2))


def upsample(maps: Float[Array, "b h w k"], size: tuple[int, int]) -> Float[Array, "b height width k"]:
    """Maps at `size` (height, width): bilinear, half-pixel centres, as torch's `align_corners=False` and OpenCV."""
    return resize_bilinear(maps, size, align_corners=False)


def normalise(maps: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
    """Each map scaled to [0, 1): (m - min) / (max - min + 1e-7), as pytorch-grad-cam. A flat map becomes 0."""
    maps = maps - maps.min((1, 2), keepdims=True)
    return maps / (maps.max((1, 2), keepdims=True) + 1e-7)


def over_pictures(
    maps: Float[Array, "b h w k"], windows: Int[Array, "b 4"], size: int, *, stride: int = 1
) -> tuple[Float[Array, "b s s k"], Bool[Array, "b s s 1"]]:
    """Maps at a network's resolution, normalised over the picture; 0 on the padding around it, where nothing can be.

    Args:
      maps: of letterboxed images.
      windows: each picture's first row and column in its square, and its numbers of rows and columns, in pixels.
      size: side of the square in pixels.
      stride: pixels of the square to one of the result, in each direction.

    Returns:
      The maps, s = size // stride, and which of their pixels have their middle in the picture.
    """
    side = size // stride
    middle = stride * (jnp.arange(side) + 0.5)
    first, count = windows[:, None, :2], windows[:, None, 2:]
    inside = (middle[:, None] > first) & (middle[:, None] < first + count)  # [b, s, (row, column)]
    picture = inside[:, :, None, :1] & inside[:, None, :, 1:]
    maps = upsample(maps, (side, side))
    least = jnp.min(maps, (1, 2), where=picture, initial=jnp.inf, keepdims=True)
    return normalise(jnp.where(picture, maps - least, 0)), picture
