"""Seeds: where a saliency map is sure of a pathology, sure of its absence, and where it is not asked."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

#: The three labels of a seed map.
BACKGROUND, FOREGROUND, IGNORE = 0, 1, 255
#: Published thresholds on normalised saliency: above is foreground, below is background, between is ignored.
FOREGROUND_ABOVE, BACKGROUND_BELOW = 0.3, 0.05


def seeds(
    saliency: Float[Array, "*B H W K"],
    present: Bool[Array, "*B K"],
    *,
    foreground: float = FOREGROUND_ABOVE,
    background: float = BACKGROUND_BELOW,
) -> UInt8[Array, "*B H W K"]:
    """Seed labels of each pathology by itself.

    Args:
      saliency: normalised to [0, 1] per map.
      present: the image labels; a pathology that is not there gives no seeds.
      foreground, background: the two thresholds.
    """
    between = jnp.where(saliency < background, BACKGROUND, IGNORE)
    labels = jnp.where(saliency > foreground, FOREGROUND, between)
    return jnp.where(present[..., None, None, :], labels, IGNORE).astype(jnp.uint8)


def crf_seeds(
    saliency: Float[Array, "H W K"],
    present: Bool[Array, " K"],
    image: Float[Array, "H W"],
    *,
    foreground: float = FOREGROUND_ABOVE,
    background: float = BACKGROUND_BELOW,
    **crf: float,
) -> UInt8[Array, "H W K"]:
    """Seeds refined by a dense CRF, as the published code does: foreground where the confident map still is after
    the CRF, background where even the generous map is not, ignored between.

    Args:
      saliency, present, foreground, background: as for `seeds`, for one image.
      image: grey intensities in [0, 255] at the map's size.
      **crf: passed to `mean_field`.
    """
    sure, likely = (mean_field(saliency > limit, image, **crf) > 0.5 for limit in (foreground, background))
    labels = jnp.where(sure, FOREGROUND, jnp.where(likely, IGNORE, BACKGROUND))
    return jnp.where(present, labels, IGNORE).astype(jnp.uint8)


def mean_field(
    masks: Bool[Array, "H W K"],
    image: Float[Array, "H W"],
    *,
    iterations: int = 10,
    confidence: float = 0.7,
    window: int = 7,
    smooth: float = 3.0,
    smooth_weight: float = 3.0,
    reach: float = 12.0,
    contrast: float = 5.0,
    contrast_weight: float = 10.0,
) -> Float[Array, "H W K"]:
    """Probability of each mask's foreground after mean-field inference of a binary dense CRF.

    Potts model with a Gaussian kernel of position and a bilateral one of position and intensity (Krähenbühl and
    Koltun 2011, arXiv 1210.5644, eq. 2-3), each normalised to a weight sum of one per pixel, and both cut off at a
    window, which makes a message a sum of shifted maps.

    Args:
      masks: the unary labels, K independent problems.
      image: grey intensities in [0, 255].
      iterations: of the mean field.
      confidence: that a unary label is right.
      window: side of the neighbourhood is 2 * window + 1 pixels.
      smooth, smooth_weight: standard deviation in pixels, and weight, of the position kernel.
      reach, contrast, contrast_weight: standard deviations in pixels and grey levels, and weight, of the bilateral.
    """
    unary = jnp.where(masks, 1.0, -1.0) * jnp.log(confidence / (1 - confidence))
    around = range(-window, window + 1)
    offsets = jnp.array([(dy, dx) for dy in around for dx in around if (dy, dx) != (0, 0)])
    distance = jnp.square(offsets).sum(1)[:, None, None]

    def at(x: Array, offset: Array) -> Array:
        """`x` at an offset from every pixel, zero beyond the image."""
        padded = jnp.pad(x, [(window, window)] * 2 + [(0, 0)] * (x.ndim - 2))
        start = (window + offset[0], window + offset[1], *[0] * (x.ndim - 2))
        return jax.lax.dynamic_slice(padded, start, x.shape)

    inside, intensity = (jax.vmap(lambda o, x=x: at(x, o))(offsets) for x in (jnp.ones_like(image), image))
    difference = jnp.square(intensity - image) / (2 * contrast**2)
    pair = jnp.zeros_like(inside)  # [offset, H, W]
    for weight, exponent in (
        (smooth_weight, distance / (2 * smooth**2)),
        (contrast_weight, distance / (2 * reach**2) + difference),
    ):
        kernel = inside * jnp.exp(-exponent)
        pair += weight * kernel / jnp.maximum(kernel.sum(0), 1e-6)

    def iterate(_, logits):
        # With two labels, a neighbour of probability q speaks for the foreground by q - (1 - q).
        votes = 2 * jax.nn.sigmoid(logits) - 1

        def hear(i, messages):
            return messages + pair[i, :, :, None] * at(votes, offsets[i])

        return jax.lax.fori_loop(0, len(offsets), hear, unary)

    return jax.nn.sigmoid(jax.lax.fori_loop(0, iterations, iterate, unary))
