"""Intersection over union, pooled over a test set (CheXseg) and averaged over its images (CheXlocalize).

All scores come from pixel counts per image and task, so pooling, averaging and a bootstrap read the masks once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Float64, Int, Real
from pycocotools import mask as coco

from chexseg_jax.data.chexlocalize import Rle


class Counts(NamedTuple):
    """Pixels per image (leading axes) and task (last axis).

    An image without a pixel in any of the three has no weight in the task's scores.
    """

    intersections: Int[Array | np.ndarray, "*N K"]
    unions: Int[Array | np.ndarray, "*N K"]
    positives: Int[Array | np.ndarray, "*N K"]  # of the ground truth

    @property
    def predicted(self) -> Int[Array | np.ndarray, "*N K"]:
        """Pixels of the prediction."""
        return self.unions - self.positives + self.intersections

    def where(self, known: Bool[Array | np.ndarray, "*N K"]) -> "Counts":
        """Set the counts to zero where the mask of the ground truth is unknown: unknown is not empty."""
        return Counts(*(n * known for n in self))


def counts(
    prediction: Bool[Array | np.ndarray, "*N H W K"], truth: Bool[Array | np.ndarray, "*N H W K"]
) -> Counts:
    """Count pixels over height and width; NumPy or JAX arrays, also under `jit`."""
    masks = (prediction & truth, prediction | truth, truth)
    return Counts(*(mask.sum(axis=(-3, -2)) for mask in masks))


def code_counts(prediction: Rle, truth: Rle) -> tuple[int, int, int]:
    """(intersection, union, positives) of two masks of the same size, counted on run lengths without decoding."""
    both = int(coco.area(coco.merge([prediction, truth], intersect=True)))
    positives = int(coco.area(truth))
    return both, int(coco.area(prediction)) + positives - both, positives


def save_counts(scores: Path, counts: Mapping[str, Sequence[Counts]]) -> None:
    """Write `counts.npz` into a folder: for each name, such as `model`, the counts of every image."""
    arrays: dict[str, Any] = {
        f"{name}_{field}": np.stack([getattr(image, field) for image in images])
        for name, images in counts.items()
        for field in Counts._fields
    }
    np.savez(scores / "counts.npz", **arrays)


def load_counts(scores: Path) -> dict[str, Counts]:
    """The counts [N, K] that `save_counts` wrote, by name."""
    with np.load(scores / "counts.npz") as arrays:
        names = sorted({key.rpartition("_")[0] for key in arrays.files})
        return {name: Counts(*(arrays[f"{name}_{field}"] for field in Counts._fields)) for name in names}


def pooled(counts: Counts) -> Float64[np.ndarray, " K"]:
    """Sum of intersections over sum of unions of all images, in [0, 1].

    A task without a positive pixel in the ground truth is absent: its IoU is nan, and `mean` leaves it out.
    Source: CheXseg, arXiv 2102.10484, section 4.
    """
    # 668 full-size radiographs overflow 32 bits.
    intersections, unions, positives = (
        np.asarray(n, np.int64).reshape(-1, n.shape[-1]).sum(axis=0) for n in counts
    )
    return _ratio(intersections, np.where(positives > 0, unions, 0))


def per_image(counts: Counts, *, true_positives_only: bool = True) -> Float64[np.ndarray, "*N K"]:
    """IoU of each image, in [0, 1]; nan where the image is not scored. Average over images with `mean`.

    Args:
      counts: per image and task.
      true_positives_only: score only images where both truth and prediction have a pixel (CheXlocalize's default);
        otherwise all images where either has one (a false positive or a miss then scores 0).

    Source: CheXlocalize's `eval.py`.
    """
    intersections, unions, positives = (np.asarray(n) for n in counts)
    scored = (positives > 0) & (np.asarray(counts.predicted) > 0) if true_positives_only else unions > 0
    return _ratio(intersections, np.where(scored, unions, 0))


def mean(scores: Float[np.ndarray, "..."], axis: int = -1) -> Float64[np.ndarray, "..."]:
    """Mean along an axis of the scores that are not nan: absent tasks and unscored images are left out.

    The mean of no score is nan.
    """
    scores = np.asarray(scores, np.float64)
    scored = ~np.isnan(scores)
    return _ratio(np.where(scored, scores, 0).sum(axis), scored.sum(axis))


def _ratio(part: Real[ArrayLike, "*M"], whole: Real[ArrayLike, "*M"]) -> Float64[np.ndarray, "*M"]:
    """part / whole; nan where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
