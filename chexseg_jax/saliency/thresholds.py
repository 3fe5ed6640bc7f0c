"""From maps to masks: intersections and unions at many thresholds at once, the best threshold, and Otsu's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

#: The published grid {0, .05, ..., .95}; a pixel belongs to the mask where its value is above the threshold.
GRID: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(20))


@partial(jax.jit, static_argnames="thresholds")
def threshold_counts(
    scores: Float[Array, "B H W K"],
    masks: Float[Array, "B H W K"] | Bool[Array, "B H W K"],
    thresholds: tuple[float, ...] = GRID,
) -> tuple[Int[Array, "B T K"], Int[Array, "B T K"]]:
    """Pixels of intersection and union of `scores > t` and `masks`, for every threshold t.

    Args:
      scores: probabilities or normalised maps in [0, 1].
      masks: ground truth in {0, 1}.
      thresholds: the T values of t.
    """
    truth = masks > 0

    def at(threshold: Array) -> tuple[Array, Array]:
        predicted = scores > threshold
        return (predicted & truth).sum((1, 2)), (predicted | truth).sum((1, 2))

    intersections, unions = jax.lax.map(at, jnp.asarray(thresholds, scores.dtype))
    return intersections.swapaxes(0, 1), unions.swapaxes(0, 1)


def mean_iou(
    intersections: Int[np.ndarray, "N T K"],
    unions: Int[np.ndarray, "N T K"],
    counted: Bool[np.ndarray, "N K"],
) -> Float[np.ndarray, "T K"]:
    """Per-image IoU averaged over the images that count for a task; nan where none does."""
    iou = intersections / np.maximum(unions, 1)
    weights = counted[:, None, :]
    with np.errstate(invalid="ignore"):
        return (iou * weights).sum(0) / weights.sum(0)


def pooled_iou(
    intersections: Int[np.ndarray, "N T K"], unions: Int[np.ndarray, "N T K"]
) -> Float[np.ndarray, "T K"]:
    """Sum of intersections over sum of unions, over all images."""
    return intersections.sum(0) / np.maximum(unions.sum(0), 1)


def best_thresholds(
    iou: Float[np.ndarray, "T K"], *, fallback: float, grid: tuple[float, ...] = GRID
) -> Float[np.ndarray, " K"]:
    """Per task the threshold with the largest IoU (the lowest of equals); `fallback` where the IoU is nan."""
    absent = np.isnan(iou).any(0)
    best = np.asarray(grid)[np.argmax(np.nan_to_num(iou), axis=0)]
    return np.where(absent, fallback, best)


def otsu(
    maps: Float[np.ndarray, "*B H W K"], where: Bool[np.ndarray, "*B H W 1"] | None = None, *, bins: int = 256
) -> Float[np.ndarray, "*B K"]:
    """Otsu's threshold of each map with values in [0, 1] (Otsu 1979): maximises the between-class variance.

    Args:
      maps: such as saliency.
      where: the pixels that count; all of them where it is None.
      bins: of the histogram.

    Returns:
      The upper edge of the best bin; values above it are foreground. A flat map gets 1, an empty mask.
    """
    values = np.moveaxis(maps, -1, -3)
    flat = values.reshape(*values.shape[:-2], -1)
    index = np.clip((flat * bins).astype(int), 0, bins - 1)
    kept = np.broadcast_to(True if where is None else np.moveaxis(where, -1, -3), values.shape).reshape(
        flat.shape
    )
    rows = zip(*(x.reshape(-1, index.shape[-1]) for x in (index, kept)), strict=True)
    one_hot = np.stack([np.bincount(row[keep], minlength=bins) for row, keep in rows])
    histogram = one_hot.reshape(*index.shape[:-1], bins).astype(float)
    centres = (np.arange(bins) + 0.5) / bins
    below = histogram.cumsum(-1)
    total = below[..., -1:]
    moment = (histogram * centres).cumsum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (moment[..., -1:] * below / total - moment) ** 2 / (below * (total - below))
    between = np.nan_to_num(between, nan=0.0, posinf=0.0)
    best = (np.argmax(between, axis=-1) + 1) / bins
    return np.where(between.max(-1) > 0, best, 1.0)
