"""Instances from a displacement field: pixels that end in the same place belong together (Ahn et al. 2019, 4.2)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.ndimage import label

#: Displacements shorter than this (in pixels of the map) mark the places where centroids gather.
WEAK = 2.5


@partial(jax.jit, static_argnames="iterations")
def centroids(displacement: Float[Array, "H W 2"], *, iterations: int = 300) -> Int[Array, "H W 2"]:
    """Where every pixel ends by following the field, bilinearly read, from where it has led so far.

    Args:
      displacement: (dy, dx) in pixels.
      iterations: of following.

    Returns:
      (row, column) of each pixel's centroid, within the map.
    """
    size = jnp.array(displacement.shape[:2])
    start = jnp.stack(jnp.meshgrid(*map(jnp.arange, displacement.shape[:2]), indexing="ij"), axis=-1)

    def follow(_, at):
        low, high = jnp.floor(at).astype(jnp.int32), jnp.ceil(at).astype(jnp.int32)
        share = at - low
        moved = jnp.zeros_like(at)
        for rows, by_rows in ((high, share[..., :1]), (low, 1 - share[..., :1])):
            for columns, by_columns in ((high, share[..., 1:]), (low, 1 - share[..., 1:])):
                moved += displacement[rows[..., 0], columns[..., 1]] * by_rows * by_columns
        return jnp.clip(at + moved, 0, size - 1)

    return jnp.round(jax.lax.fori_loop(0, iterations, follow, start.astype(jnp.float32))).astype(jnp.int32)


def instances(
    centroids: Int[np.ndarray, "H W 2"], displacement: Float[np.ndarray, "H W 2"], *, weak: float = WEAK
) -> Bool[np.ndarray, "I H W"]:
    """Groups pixels whose centroids lie in one connected region of weak displacement.

    Args:
      centroids: of `centroids`.
      displacement: (dy, dx) in pixels.
      weak: displacements shorter than this, in pixels, make up the regions (4-connected).

    Returns:
      Disjoint masks that cover the map. Pixels whose centroid is in no region make up one group, the first.
    """
    strength = np.hypot(displacement[..., 0], displacement[..., 1])
    regions, _ = label(strength < weak)
    found = regions[centroids[..., 0], centroids[..., 1]]
    return found == np.unique(found)[:, None, None]
