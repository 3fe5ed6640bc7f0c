"""Pairs of neighbouring pixels and the straight paths between them (Ahn et al. 2019, section 4)."""

from functools import cache
from typing import NamedTuple

from jaxtyping import Array, Float

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
    x: Float[Array, "*B height width"], offset: Offset, reach: int
) -> Float[Array, "*B height-reach width-2*reach"]:
    """`x` at `offset` from every pixel that has all its neighbours within the map.

    Those are the pixels [0, height - reach) x [reach, width - reach): neighbours lie right of or below a pixel.
    """
    height, width = x.shape[-2:]
    dy, dx = offset
    return x[..., dy : dy + height - reach, reach + dx : width - reach + dx]
