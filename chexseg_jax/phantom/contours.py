"""Trace masks as the polygons that a radiologist's annotation tool stores."""

from collections.abc import Iterator
from typing import cast

import contourpy
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

Polygon = Float[np.ndarray, "_ 2"]


def trace(mask: Bool[np.ndarray, "H W"]) -> list[Polygon]:
    """Trace a mask as polygons of (x, y) in pixels; `chexlocalize.rasterize` returns the same mask, pixel for pixel.

    Corners are centres of border pixels. Polygons cannot have holes, so a piece with a hole is cut through it.
    """
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    polygons = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(pieces, count), start=1):
        offset = np.array((columns.start, rows.start), float)
        for part in _cut(pieces[rows, columns] == number):
            polygons += [outline + offset for outline in _outlines(part)]
    return polygons


def _cut(piece: Bool[np.ndarray, "h w"]) -> Iterator[Bool[np.ndarray, "h w"]]:
    """Cut a piece into vertical strips without holes, each in the frame of the piece."""
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
    """Trace the outer borders of a mask without holes."""
    contours = contourpy.contour_generator(z=np.pad(part, 1).astype(np.float32))
    for line in cast(list[Polygon], contours.lines(0.99)):
        corners = np.round(line[:-1]) - 1
        changed = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
        yield corners[changed] if changed.any() else np.repeat(corners[:1], 2, axis=0)
