"""Instances from a displacement field: pixels that reach the same centroid belong together (Ahn et al. 2019, 4.2)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.ndimage import label

#: Centroids gather where displacements are shorter than this, in pixels of the map.
WEAK = 2.5


@partial(jax.jit, static_argnames="iterations")
def centroids(displacement: Float[Array, "H W 2"], *, iterations: int = 300) -> Int[Array, "H W 2"]:
    """Follow the field from every pixel, with bilinear interpolation.

    Args:
      displacement: (dy, dx) in pixels.
      iterations: number of steps.

    Returns:
      (row, column) of the pixel that each one reaches, within the map.
    """
    size = jnp.array(displacement.shape[:2])
    start = jnp.stack(jnp.meshgrid(*map(jnp.arange, displacement.shape[:2]), indexing="ij"), axis=-1)

    def step(_, position):
        low, high = jnp.floor(position).astype(jnp.int32), jnp.ceil(position).astype(jnp.int32)
        fraction = position - low
        move = jnp.zeros_like(position)
        for rows, row_weight in ((high, fraction[..., :1]), (low, 1 - fraction[..., :1])):
            for columns, column_weight in ((high, fraction[..., 1:]), (low, 1 - fraction[..., 1:])):
                move += displacement[rows[..., 0], columns[..., 1]] * row_weight * column_weight
        return jnp.clip(position + move, 0, size - 1)

    return jnp.round(jax.lax.fori_loop(0, iterations, step, start.astype(jnp.float32))).astype(jnp.int32)


def instances(
    centres: Int[np.ndarray, "H W 2"], displacement: Float[np.ndarray, "H W 2"], *, weak: float = WEAK
) -> Bool[np.ndarray, "I H W"]:
    """Group the pixels whose centroids lie in the same region of weak displacement.

    Args:
      centres: result of `centroids`.
      displacement: (dy, dx) in pixels.
      weak: regions are the 4-connected sets of displacements shorter than this, in pixels.

    Returns:
      Disjoint masks that cover the map. Pixels whose centroid is in no region form one group, the first.
    """
    strength = np.hypot(displacement[..., 0], displacement[..., 1])
    regions, _ = label(strength < weak)
    groups = regions[centres[..., 0], centres[..., 1]]
    return groups == np.unique(groups)[:, None, None]
