"""Pairs of neighbouring pixels and the straight paths between them (Ahn et al. 2019, section 4)."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from chexseg_jax.errors import InputError

#: (dy, dx)
Offset = tuple[int, int]


class Path(NamedTuple):
    """A direction to a neighbour and the pixels on the way.

    Attributes:
      dst: (dy, dx) of the neighbour.
      pixels: (dy, dx) of every pixel less than one pixel away from the segment, within its bounding box: both ends
        and all between.
    """

    dst: Offset
    pixels: tuple[Offset, ...]


@cache
def paths(radius: int) -> tuple[Path, ...]:
    """Every neighbour nearer than `radius`, each pair once: those to the right in the row, and those below.

    The order is the published code's: by the number of pixels on the path, then by rows.

    Args:
      radius: in pixels of the map, at least 2 for any pair to exist.
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
    """How far the farthest neighbour is in one axis."""
    return radius - 1


def shifted(
    x: Shaped[Array, "*B height width"], offset: Offset | Int[Array, "2"], reach: int
) -> Shaped[Array, "*B height-reach width-2*reach"]:
    """`x` at `offset` from every pixel that has all its neighbours within the map.

    Those are the pixels [0, height - reach) x [reach, width - reach): neighbours lie right of or below a pixel.
    """
    *batch, height, width = x.shape
    dy, dx = offset
    start = (*[0] * len(batch), dy, reach + dx)
    return jax.lax.dynamic_slice(x, start, (*batch, height - reach, width - 2 * reach))


def table(radius: int) -> tuple[Int[np.ndarray, "D 2"], Int[np.ndarray, "D P 2"]]:
    """Directions and path pixels as arrays for a loop over directions; shorter paths repeat their last pixel."""
    if not paths(radius):
        raise InputError(f"radius={radius}: no two pixels are nearer than that; take 2 or more")
    longest = max(len(path.pixels) for path in paths(radius))
    pixels = [path.pixels + (longest - len(path.pixels)) * path.pixels[-1:] for path in paths(radius)]
    return np.array([path.dst for path in paths(radius)]), np.array(pixels)


def affinity(
    edge: Float[Array, "*B height width"], pixels: Int[Array, "P 2"], reach: int
) -> Float[Array, "*B height-reach width-2*reach"]:
    """a_ij = 1 - max of the boundary map on the path from i to j, for one direction; see `shifted`."""

    def furthest(k: int, wall: Array) -> Array:
        return jnp.maximum(wall, shifted(edge, pixels[k], reach))

    return 1 - jax.lax.fori_loop(1, len(pixels), furthest, shifted(edge, pixels[0], reach))


def affinities(
    edge: Float[Array, "*B height width"], *, radius: int
) -> Float[Array, "D *B height-reach width-2*reach"]:
    """`affinity` of every direction, in the order of `paths`.

    Args:
      edge: probability of a boundary in [0, 1].
      radius: pairs nearer than this, in pixels.
    """
    # A loop, for a program of two thousand unrolled slices (radius 10) takes XLA minutes to compile; recomputed in
    # the backward pass, for otherwise that would hold one map for every pixel of every path.
    reach = margin(radius)
    return jax.lax.map(
        jax.checkpoint(lambda pixels: affinity(edge, pixels, reach)), jnp.asarray(table(radius)[1])
    )
