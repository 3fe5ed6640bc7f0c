"""Stored pixel values as grey levels: percentiles, and the windows and lookup tables of DICOM (PS3.3, C.11)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped, UInt8


def stretch(
    values: Num[np.ndarray, "*S"], counted: Bool[np.ndarray, "*S"] | None = None
) -> Float[np.ndarray, "*S"]:
    """Scale linearly from the 1st to the 99th percentile, to [0, 1].

    Where these are equal, from the least value to the largest. An image of a single value is 0.

    Args:
      values: of the pixels.
      counted: the pixels whose values count; the default is all.
    """
    sample = values if counted is None else values[counted]
    if not sample.size:
        return np.zeros(values.shape, np.float32)
    low, high = np.percentile(sample, (1, 99))
    if low == high:
        low, high = sample.min(), sample.max()
    return np.clip((values - np.float32(low)) / np.float32((high - low) or 1), 0, 1)


def to_grey(levels: Float[np.ndarray, "*S"], *, inverted: bool) -> UInt8[np.ndarray, "*S"]:
    """Levels in [0, 1] as grey values in [0, 255]."""
    return np.rint(255 * (1 - levels if inverted else levels)).astype(np.uint8)


def window(
    values: Num[np.ndarray, "*S"], centre: float, width: float, function: str = "LINEAR"
) -> Float[np.ndarray, "*S"]:
    """Levels in [0, 1] through a window (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Args:
      values: of the pixels, after the modality's rescaling.
      centre: of the window.
      width: of the window: at least 1 for LINEAR, and positive for the others.
      function: LINEAR, LINEAR_EXACT or SIGMOID.
    """
    offset = values - np.float64(centre)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * offset / width, -700, 700)))
    if function == "LINEAR":
        offset, width = offset + 0.5, width - 1
    if not width:
        return (offset > 0).astype(np.float64)
    return np.clip(offset / width + 0.5, 0, 1)


def look_up(
    values: Num[np.ndarray, "*S"], table: Shaped[np.ndarray, " N"], first: int
) -> Shaped[np.ndarray, "*S"]:
    """Entries of a lookup table whose first entry stands for the value `first`; values outside take the nearest."""
    return table[np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)]


def within(values: Num[np.ndarray, "*S"], ends: Sequence[float]) -> Bool[np.ndarray, "*S"]:
    """Whether each value lies between the least and the largest of `ends`, both included."""
    return (values >= min(ends)) & (values <= max(ends))
