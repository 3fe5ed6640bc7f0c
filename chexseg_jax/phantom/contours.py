"""From masks to the polygons that a radiologist's tool would have stored."""

from collections.abc import Iterator

import contourpy
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

Polygon = Float[np.ndarray, "corners 2"]


def trace(mask: Bool[np.ndarray, "H W"]) -> list[Polygon]:
    """Polygons of (x, y) in pixels whose union is the mask: `chexlocalize.rasterize` gives it back, pixel for pixel.

    Corners are centres of border pixels. Polygons know no holes: a piece that has one is cut through it.
    """
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    boxes = ndimage.find_objects(pieces, count)
    polygons = []
    for number, (rows, columns) in enumerate(boxes, start=1):
        offset = np.array((columns.start, rows.start), float)
        polygons += [
            polygon + offset for part in _cut(pieces[rows, columns] == number) for polygon in _outlines(part)
        ]
    return polygons


def _cut(piece: Bool[np.ndarray, "h w"]) -> Iterator[Bool[np.ndarray, "h w"]]:
    """Vertical strips of a piece, none with a hole, each in the piece's frame."""
    holes = ndimage.binary_fill_holes(piece) & ~piece
    while holes.any():
        column = int(holes.any(axis=0).argmax())
        left = piece.copy()
        left[:, column + 1 :] = False
        yield left
        piece = piece & ~left
        holes = ndimage.binary_fill_holes(piece) & ~piece
    yield piece


def _outlines(part: Bool[np.ndarray, "h w"]) -> Iterator[Polygon]:
    """The outer borders of the parts of a mask without holes."""
    for line in contourpy.contour_generator(z=np.pad(part, 1).astype(np.float32)).lines(0.99):
        corners = np.round(line[:-1]) - 1
        changed = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
        yield corners[changed] if changed.any() else np.repeat(corners[:1], 2, axis=0)
