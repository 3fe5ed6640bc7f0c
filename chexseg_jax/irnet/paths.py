"""Pairs of neighbouring pixels and the straight paths between them (Ahn et al. 2019, section 4)."""

from functools import cache, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from chexseg_jax.errors import InputError
from chexseg_jax.models.cpu import on_cpu

#: (dy, dx)
Offset = tuple[int, int]


class Path(NamedTuple):
    """The path from a pixel to one of its neighbours.

    Attributes:
      dst: (dy, dx) of the neighbour.
      pixels: (dy, dx) of every pixel less than one pixel from the segment and within its bounding box, both ends
        included.
    """

    dst: Offset
    pixels: tuple[Offset, ...]


@cache
def paths(radius: int) -> tuple[Path, ...]:
    """List the paths to every neighbour nearer than `radius`: those to the right in the same row, and those below.

    So each pair of pixels appears once. The order is the published code's: by number of pixels on the path, then by
    rows.

    Args:
      radius: in pixels of the map; no pair exists below 2.
    """
    reach = range(1 - radius, radius)
    directions = [(0, x) for x in range(1, radius)]
    directions += [(y, x) for y in range(1, radius) for x in reach if x * x + y * y < radius * radius]
    return tuple(sorted(map(_path, directions), key=lambda path: len(path.pixels)))


def _path(dst: Offset) -> Path:
    dy, dx = dst
    rows, columns = (range(min(0, d), max(0, d) + 1) for d in dst)
    # |dy x - dx y| / |dst| is the distance from the line through both ends.
    near = [(y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
    return Path(dst, tuple(sorted(near, key=lambda p: -abs(p[0]) - abs(p[1]))))


def margin(radius: int) -> int:
    """Largest distance to a neighbour along one axis, in pixels."""
    return radius - 1


def shifted(
    x: Shaped[Array, "*B H W"], offset: Offset | Int[Array, "2"], reach: int
) -> Shaped[Array, "*B H-{reach} W-2*{reach}"]:
    """Read `x` at `offset` from every pixel whose neighbours all lie within the map.

    Those are the pixels [0, H - reach) x [reach, W - reach), since neighbours lie right of or below a pixel.
    """
    *batch, height, width = x.shape
    dy, dx = offset
    start = (*[0] * len(batch), dy, reach + dx)
    return jax.lax.dynamic_slice(x, start, (*batch, height - reach, width - 2 * reach))


def table(radius: int) -> tuple[Int[np.ndarray, "D 2"], Int[np.ndarray, "D P 2"]]:
    """Put neighbours and path pixels into arrays for a loop over directions; short paths repeat their last pixel.

    Raises:
      InputError: if no pair of pixels is nearer than `radius`.
    """
    if not paths(radius):
        raise InputError(f"radius={radius} must be at least 2: no two pixels are nearer than 1")
    longest = max(len(path.pixels) for path in paths(radius))
    pixels = [path.pixels + (longest - len(path.pixels)) * path.pixels[-1:] for path in paths(radius)]
    return np.array([path.dst for path in paths(radius)]), np.array(pixels)


def affinity(
    edge: Float[Array, "*B H W"], pixels: tuple[Offset, ...] | Int[Array, "P 2"], reach: int
) -> Float[Array, "*B H-{reach} W-2*{reach}"]:
    """Compute a_ij = 1 - max of the boundary map on the path from i to j, for one direction and all i of `shifted`."""
    if not on_cpu():  # the loop would be a kernel a pixel, and more for its gradient; this is a single one
        return 1 - reduce(jnp.maximum, (shifted(edge, pixel, reach) for pixel in pixels))

    def maximum(k: Int[Array, ""], highest: Array) -> Array:
        return jnp.maximum(highest, shifted(edge, pixels[k], reach))

    return 1 - jax.lax.fori_loop(1, len(pixels), maximum, shifted(edge, pixels[0], reach))


def affinities(
    edge: Float[Array, "*B H W"], *, radius: int
) -> Float[Array, "D *B H-{radius}+1 W-2*{radius}+2"]:
    """Compute `affinity` for each direction, in the order of `paths`.

    Args:
      edge: probability of a boundary in [0, 1].
      radius: link pairs nearer than this, in pixels.
    """
    reach, pixels = margin(radius), table(radius)[1]
    if not on_cpu():
        return jnp.stack([affinity(edge, path.pixels, reach) for path in paths(radius)])
    # A loop, which compiles in seconds. Recomputed in the backward pass, which would otherwise store one map for every
    # pixel of every path.
    return jax.lax.map(jax.checkpoint(lambda pixels: affinity(edge, pixels, reach)), jnp.asarray(pixels))
