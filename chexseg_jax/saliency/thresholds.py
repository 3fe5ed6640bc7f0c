"""From maps to masks: intersections and unions at many thresholds at once, the best threshold, and Otsu's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

#: The published grid {0, .05, ..., .95}. A pixel belongs to the mask if its value is above the threshold.
GRID: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(20))


@partial(jax.jit, static_argnames="thresholds")
def threshold_counts(
    scores: Float[Array, "B H W K"],
    masks: Float[Array, "B H W K"] | Bool[Array, "B H W K"],
    known: Bool[Array, "B K"] | None = None,
    thresholds: tuple[float, ...] = GRID,
) -> tuple[Int[Array, "B T K"], Int[Array, "B T K"]]:
    """Count the pixels in the intersection and in the union of `scores > t` and `masks`, for every threshold t.

    Args:
      scores: probabilities or scaled maps in [0, 1].
      masks: ground truth in {0, 1}.
      known: the annotated masks; both counts of the others are 0. None: all of them.
      thresholds: the T values of t.
    """
    truth = masks > 0
    counted = True if known is None else known[:, None, None, :]

    def count(threshold: Array) -> tuple[Array, Array]:
        predicted = scores > threshold
        return (predicted & truth & counted).sum((1, 2)), ((predicted | truth) & counted).sum((1, 2))

    intersections, unions = jax.lax.map(count, jnp.asarray(thresholds, scores.dtype))
    return intersections.swapaxes(0, 1), unions.swapaxes(0, 1)


def mean_iou(
    intersections: Int[np.ndarray, "N T K"],
    unions: Int[np.ndarray, "N T K"],
    counted: Bool[np.ndarray, "N K"],
) -> Float[np.ndarray, "T K"]:
    """Average the per-image IoU over the images that count for each task; nan for a task without any."""
    iou = intersections / np.maximum(unions, 1)
    weights = counted[:, None, :]
    with np.errstate(invalid="ignore"):
        return (iou * weights).sum(0) / weights.sum(0)


def pooled_iou(
    intersections: Int[np.ndarray, "N T K"], unions: Int[np.ndarray, "N T K"]
) -> Float[np.ndarray, "T K"]:
    """Divide the sum of intersections by the sum of unions, over all images."""
    return intersections.sum(0) / np.maximum(unions.sum(0), 1)


def best_thresholds(
    iou: Float[np.ndarray, "T K"], *, fallback: float, grid: tuple[float, ...] = GRID
) -> Float[np.ndarray, " K"]:
    """Choose per task the threshold with the largest IoU, the lowest of equals; `fallback` if the IoU is nan."""
    absent = np.isnan(iou).any(0)
    best = np.asarray(grid)[np.argmax(np.nan_to_num(iou), axis=0)]
    return np.where(absent, fallback, best)


def otsu(
    maps: Float[np.ndarray, "*B H W K"], where: Bool[np.ndarray, "*B H W 1"] | None = None, *, bins: int = 256
) -> Float[np.ndarray, "*B K"]:
    """Otsu's threshold of each map (Otsu 1979): the one that maximises the between-class variance.

    Args:
      maps: values in [0, 1], saliency for example.
      where: the pixels that count; None: all of them.
      bins: number of histogram bins.

    Returns:
      The upper edge of the best bin; values above it are foreground. A flat map gets 1, hence an empty mask.
    """
    pixels = np.moveaxis(maps, -1, -3)
    pixels = pixels.reshape(*pixels.shape[:-2], -1)  # [*B, K, H * W]
    index = np.clip((pixels * bins).astype(int), 0, bins - 1)
    if where is None:
        where = np.ones((*maps.shape[:-1], 1), bool)
    counted = np.broadcast_to(where.reshape(*where.shape[:-3], 1, -1), index.shape)
    histogram = np.zeros((*index.shape[:-1], bins))
    for one in np.ndindex(index.shape[:-1]):
        histogram[one] = np.bincount(index[one][counted[one]], minlength=bins)
    centres = (np.arange(bins) + 0.5) / bins
    below = histogram.cumsum(-1)
    total = below[..., -1:]
    moment = (histogram * centres).cumsum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (moment[..., -1:] * below / total - moment) ** 2 / (below * (total - below))
    between = np.nan_to_num(between, nan=0.0, posinf=0.0)
    best = (np.argmax(between, axis=-1) + 1) / bins
    return np.where(between.max(-1) > 0, best, 1.0)
