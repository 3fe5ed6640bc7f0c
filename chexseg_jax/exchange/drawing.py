"""Masks from shapes, and shapes from masks: boxes, polygons and run lengths, exact to the pixel."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask as coco
from scipy import ndimage

from chexseg_jax.data.chexlocalize import MAX_COORDINATE, Rle, checked_rle, decode, encode
from chexseg_jax.errors import InputError


def union(codes: Sequence[Rle]) -> Rle:
    """The union of one or more masks of one size."""
    if len(codes) == 1:
        return codes[0]
    merged = coco.merge([{**code, "counts": code["counts"].encode()} for code in codes])
    return {"size": [int(n) for n in merged["size"]], "counts": merged["counts"].decode()}


def agreed(codes: Sequence[Rle], least: int) -> Rle:
    """The pixels that at least so many masks of one size have."""
    if least == 1:
        return union(codes)
    return encode(np.sum([decode(code) for code in codes], axis=0) >= least)


def from_runs(runs: Sequence[int], size: tuple[int, int]) -> Rle:
    """A mask from pairs of a gap and a run, in pixels down the columns.

    Raises:
      ValueError: for a negative length, or runs that leave the image.
    """
    height, width = size
    rest = height * width - sum(runs)
    if rest < 0 or min(runs, default=0) < 0:
        raise ValueError(f"its run lengths do not fit {height} x {width} pixels")
    inside = np.repeat(np.arange(len(runs) + 1) % 2 == 1, [*runs, rest])
    return encode(inside.reshape(width, height).T)


def from_box(box: Sequence[float], size: tuple[int, int], where: str) -> Rle:
    """A box (left, top, right, bottom), in pixels, as a mask: a pixel belongs to it by its centre.

    Raises:
      InputError: for a box without area, or one that leaves the image by more than a pixel.
    """
    (left, top, right, bottom), (height, width) = box, size
    inside = -1 <= left < right <= width + 1 and -1 <= top < bottom <= height + 1
    if not inside:
        raise InputError(
            f"{where}: box {left:g}, {top:g}, {right:g}, {bottom:g} does not lie in its image of width {width} and "
            f"height {height}; was the image resized? Give it at the size that was annotated"
        )
    mask = np.zeros(size, bool)
    rows, columns = (
        slice(max(0, round(low)), max(0, round(high))) for low, high in ((top, bottom), (left, right))
    )
    mask[rows, columns] = True
    return encode(mask)


def from_coco(segmentation: Any, size: tuple[int, int], where: str) -> Rle:
    """A mask as COCO's JSON has it: polygons [[x, y, x, y, ...], ...], or run lengths, compressed or not.

    Raises:
      InputError: for a segmentation that is neither, or that does not have the size of its image.
    """
    height, width = size
    if isinstance(segmentation, dict):
        code = checked_rle(segmentation, where)
        if code["size"] != [height, width]:
            raise InputError(
                f"{where}: run lengths of size {code['size']}, its image has [{height}, {width}]"
            )
        return code
    polygons = [as_floats(polygon) for polygon in segmentation] if isinstance(segmentation, list) else []
    for polygon in polygons:
        if polygon is None or len(polygon) % 2 or len(polygon) < 6:
            raise InputError(f"{where}: a polygon must be a list x, y, x, y, ... of at least three corners")
    if not polygons:
        raise InputError(f"{where}: a segmentation must be a list of polygons or COCO run lengths")
    codes = coco.frPyObjects(polygons, height, width)
    return union([{"size": [height, width], "counts": code["counts"].decode()} for code in codes])


def as_floats(values: Any) -> list[float] | None:
    """Coordinates in a list as finite numbers of a sound size; None if they are anything else."""
    if not isinstance(values, list):
        return None
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(abs(number) <= MAX_COORDINATE for number in numbers) else None


def outlines(mask: Bool[np.ndarray, "H W"]) -> list[list[int]]:
    """Trace a mask as polygons [x, y, x, y, ...] along the edges of its pixels, as COCO's JSON has them.

    `from_coco` returns the same mask, pixel for pixel. Polygons cannot have holes, so a piece with a hole is cut
    through it.
    """
    return [
        _trace(part, (columns.start, rows.start))
        for piece, window in _pieces(mask)
        for part, (rows, columns) in _without_holes(piece, window)
    ]


_Window = tuple[slice, slice]


def _pieces(mask: Bool[np.ndarray, "H W"]) -> Iterator[tuple[Bool[np.ndarray, "h w"], _Window]]:
    """The 4-connected pieces of a mask, with the windows that hold them."""
    numbers, count = ndimage.label(mask)
    for number, window in enumerate(ndimage.find_objects(numbers, count), start=1):
        yield numbers[window] == number, window


def _without_holes(
    piece: Bool[np.ndarray, "h w"], window: _Window
) -> Iterable[tuple[Bool[np.ndarray, "a b"], _Window]]:
    """Cut a piece at its holes, into pieces without."""
    pieces = [(piece, window)]
    while pieces:
        piece, window = pieces.pop()
        holes = ndimage.binary_fill_holes(piece) & ~piece
        if not holes.any():
            yield piece, window
            continue
        # The hole's first column is on the left, and opens there.
        column = int(holes.any(axis=0).argmax()) + 1
        for half, shift in ((piece[:, column:], column), (piece[:, :column], 0)):
            top, left = window[0].start, window[1].start + shift
            for part, (rows, columns) in _pieces(half):
                inner = (
                    slice(rows.start + top, rows.stop + top),
                    slice(columns.start + left, columns.stop + left),
                )
                pieces.append((part, inner))


def _trace(piece: Bool[np.ndarray, "h w"], corner: tuple[int, int]) -> list[int]:
    """The outline of a connected piece without holes: it passes each corner of a pixel at most once."""
    padded = np.pad(piece, 1)
    inside = padded[1:-1, 1:-1]
    sides = (  # of a pixel (x, y): the neighbour beyond it, and its first and last corner, clockwise
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    following: dict[tuple[int, int], tuple[int, int]] = {}
    for beyond, first, last in sides:
        at = np.argwhere(inside & ~beyond)[:, ::-1]
        ends = zip(map(tuple, (at + first).tolist()), map(tuple, (at + last).tolist()), strict=True)
        following.update(ends)
    loop = [min(following)]
    while (point := following[loop[-1]]) != loop[0]:
        loop.append(point)
    points: Int64[np.ndarray, "n 2"] = np.array(loop)
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    return (points[(before != after).any(axis=1)] + corner).ravel().tolist()
