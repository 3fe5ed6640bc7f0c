"""Seeds: the pixels where a saliency map is confident that a pathology is present, or absent."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

#: Labels of a seed map.
BACKGROUND, FOREGROUND, IGNORE = 0, 1, 255
#: The paper's thresholds on saliency in [0, 1]: foreground above the first, background below the second.
FOREGROUND_ABOVE, BACKGROUND_BELOW = 0.3, 0.05


def seeds(
    saliency: Float[Array, "*B H W K"],
    present: Bool[Array, "*B K"],
    *,
    foreground: float = FOREGROUND_ABOVE,
    background: float = BACKGROUND_BELOW,
) -> UInt8[Array, "*B H W K"]:
    """Label each pixel per pathology as foreground, background or ignored (between the thresholds).

    Args:
      saliency: scaled to [0, 1] per map.
      present: the image labels; all pixels of an absent pathology are ignored.
      foreground, background: the two thresholds.
    """
    between = jnp.where(saliency < background, BACKGROUND, IGNORE)
    labels = jnp.where(saliency > foreground, FOREGROUND, between)
    return jnp.where(present[..., None, None, :], labels, IGNORE).astype(jnp.uint8)


def pack_seeds(labels: UInt8[Array, "*B K"]) -> UInt8[Array, "*B 2*((K+7)//8)"]:
    """Store seed labels as bits: P = ceil(K / 8) bytes of foreground, then P of background; a bit per pathology.

    Bits are little-endian: pathology k is bit k % 8 of byte k // 8. An ignored pixel has neither bit.
    """
    planes = [jnp.packbits(labels == label, axis=-1, bitorder="little") for label in (FOREGROUND, BACKGROUND)]
    return jnp.concatenate(planes, axis=-1)


def unpack_seeds(
    planes: UInt8[Array, "*B 2*(({num_tasks}+7)//8)"], num_tasks: int
) -> UInt8[Array, "*B {num_tasks}"]:
    """Read the seed labels of K = `num_tasks` pathologies back: the inverse of `pack_seeds`."""
    foreground, background = (
        jnp.unpackbits(half, axis=-1, count=num_tasks, bitorder="little").astype(bool)
        for half in jnp.split(planes, 2, axis=-1)
    )
    labels = jnp.where(background, BACKGROUND, IGNORE)
    return jnp.where(foreground, FOREGROUND, labels).astype(jnp.uint8)
