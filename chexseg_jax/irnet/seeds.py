"""Seeds: where a saliency map is sure of a pathology, sure of its absence, and where it is not asked."""

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
