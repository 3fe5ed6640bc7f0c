"""Masks at full size, as run-length codes that are made from small maps without a picture in between.

A mask of 2828 x 2320 pixels is settled by its outline: bilinear interpolation stays between the values that it
interpolates, so only pixels between a sample above the threshold and one that is not need to be computed.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from PIL import Image
from pycocotools import mask as coco
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from chexseg_jax.data.chexlocalize import Rle, encode, run_lengths
from chexseg_jax.data.images import resize_map


def threshold_map(values: Float32[np.ndarray, "h w"], shape: tuple[int, int], limit: float) -> Rle:
    """The code of `resize_map(values, shape) > limit`, bit for bit."""
    if shape[0] < values.shape[0] or shape[1] < values.shape[1]:  # shrinking averages over many samples
        return encode(resize_map(values, shape) > np.float64(limit))
    bound = np.float32(limit)
    if float(bound) > limit:  # float32 values above `limit` are those above the last float32 that is not
        bound = np.nextafter(bound, np.float32(-np.inf))
    toggles = _toggles(values, shape, bound)
    counts = np.diff(toggles, prepend=0, append=shape[0] * shape[1])
    code: Any = coco.frPyObjects({"size": list(shape), "counts": counts.tolist()}, *shape)
    return {"size": list(shape), "counts": code["counts"].decode("ascii")}


def _toggles(
    values: Float32[np.ndarray, "h w"], shape: tuple[int, int], bound: np.float32
) -> Int64[np.ndarray, " n"]:
    """The pixels, counted down the columns, at which the mask begins or ends."""
    height, samples = shape[0], values.shape[0]
    if values.max() <= bound:
        return np.zeros(0, np.int64)
    across = Image.fromarray(values).resize((shape[1], samples), Image.Resampling.BILINEAR)
    columns = np.ascontiguousarray(np.asarray(across).T)
    above = columns > bound
    # Pillow's second pass, in double precision, rounded to single: pixel y lies between the samples low and low + 1.
    place = (np.arange(height) + 0.5) * (samples / height)
    low = np.maximum((place - 0.5).astype(np.int64), 0)
    weights = np.stack([1 - np.abs(low + n - place + 0.5) for n in (0, 1)])
    weights[1, place < 0.5] = 0
    weights /= weights.sum(0)
    column, sample = np.nonzero(above[:, :-1] != above[:, 1:])
    first = np.searchsorted(low, np.arange(samples))
    pixel = first[sample, None] + np.arange(np.diff(first).max(initial=0))
    within = pixel < first[sample + 1, None]
    pair = columns[column, sample], columns[column, sample + 1]
    near, far = (
        value[:, None] * weight[np.minimum(pixel, height - 1)]
        for value, weight in zip(pair, weights, strict=True)
    )
    inside = np.where(within, (near + far).astype(np.float32) > bound, above[column, sample + 1, None])
    # Before the pixels of a pair is its first sample, after them its second.
    states = np.column_stack([above[column, sample], inside, above[column, sample + 1]])
    after = first[sample + 1, None]
    places = column[:, None] * height + np.column_stack([np.minimum(pixel, after), after])
    # The code goes on from the foot of a column to the head of the next.
    heads = np.flatnonzero(above[:, 0] != np.concatenate([[False], above[:-1, -1]])) * height
    changes = np.concatenate([heads, places[states[:, 1:] != states[:, :-1]]])
    toggles, times = np.unique(changes, return_counts=True)
    return toggles[times % 2 == 1]


def area(code: Rle) -> int:
    """The pixels of a mask."""
    return int(coco.area(code))


def boxes(code: Rle) -> Int64[np.ndarray, "n 5"]:
    """The box x0, y0, x1, y1 of each connected part of a mask and the part's number of pixels, the largest part first.

    x1 and y1 lie one pixel beyond the part. Parts that touch at a corner only are two, as `scipy.ndimage.label` has it.
    """
    height = code["size"][0]
    edges = np.cumsum(run_lengths(code["counts"]))
    start, end = edges[: len(edges) // 2 * 2].reshape(-1, 2).T if len(edges) > 1 else (edges[:0],) * 2
    # A run that goes on at the top of the next column is one run in each.
    columns = (end - 1) // height - start // height + 1
    run = np.repeat(np.arange(len(start)), columns)
    column = start[run] // height + np.arange(len(run)) - np.repeat(np.cumsum(columns) - columns, columns)
    start, end = np.maximum(start[run], column * height), np.minimum(end[run], (column + 1) * height)
    # The runs of the next column beside each.
    first = np.searchsorted(end, start + height, "right")
    beside = np.maximum(np.searchsorted(start, end + height) - first, 0)
    left = np.repeat(np.arange(len(start)), beside)
    right = np.repeat(first, beside) + np.arange(len(left)) - np.repeat(np.cumsum(beside) - beside, beside)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(start),) * 2)
    count, part = connected_components(graph, directed=False)
    low, high = np.full((count, 2), np.iinfo(np.int64).max), np.zeros((count, 2), np.int64)
    np.minimum.at(low, part, np.column_stack([column, start - column * height]))
    np.maximum.at(high, part, np.column_stack([column + 1, end - column * height]))
    pixels = np.bincount(part, end - start, count).astype(np.int64)
    return np.column_stack([low, high, pixels])[np.argsort(-pixels, kind="stable")]
