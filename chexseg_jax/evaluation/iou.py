"""Intersection over union, pooled over a test set (CheXseg) and averaged over its images (CheXlocalize).

Everything is made from pixel counts per image and pathology, so that both scores, a sweep over thresholds and
a bootstrap read the masks once.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float64, Int
from pycocotools import mask as coco

from chexseg_jax.data.chexlocalize import Rle


class Counts(NamedTuple):
    """Pixels per image (leading axes) and pathology (last axis)."""

    intersections: Int[Array | np.ndarray, "*N K"]
    unions: Int[Array | np.ndarray, "*N K"]
    positives: Int[Array | np.ndarray, "*N K"]  # of the ground truth

    @property
    def predicted(self) -> Int[Array | np.ndarray, "*N K"]:
        """Pixels that the prediction claims."""
        return self.unions - self.positives + self.intersections


def counts(
    prediction: Bool[Array | np.ndarray, "*N H W K"], truth: Bool[Array | np.ndarray, "*N H W K"]
) -> Counts:
    """Counts pixels over height and width; NumPy or JAX arrays, also under `jit`."""
    intersections, positives = _area(prediction & truth), _area(truth)
    return Counts(intersections, _area(prediction) + positives - intersections, positives)


def code_counts(prediction: Rle, truth: Rle) -> tuple[int, int, int]:
    """(intersection, union, positives) of two masks of one size, counted on run lengths without decoding."""
    both = int(coco.area(coco.merge([prediction, truth], intersect=True)))
    positives = int(coco.area(truth))
    return both, int(coco.area(prediction)) + positives - both, positives


def pooled(counts: Counts) -> Float64[np.ndarray, " K"]:
    """Sum of intersections over sum of unions, the images taken together; in [0, 1].

    A pathology without a positive pixel in the ground truth has no IoU: nan, absent (`mean` leaves it out).
    Source: CheXseg, arXiv 2102.10484, section 4.
    """
    intersections, unions, positives = (_over_images(n) for n in counts)
    return _ratio(intersections, np.where(positives > 0, unions, 0))


def per_image(counts: Counts, *, true_positives_only: bool = True) -> Float64[np.ndarray, "*N K"]:
    """Each image's own IoU, in [0, 1]; nan where an image does not count. Average over images with `mean`.

    Args:
      counts: per image and pathology.
      true_positives_only: count only images where both truth and prediction have a pixel (CheXlocalize's
        default); else all where either has (a false positive or a miss is then 0).

    Source: CheXlocalize's `eval.py`.
    """
    intersections, unions, positives = (np.asarray(n) for n in counts)
    scored = (positives > 0) & (np.asarray(counts.predicted) > 0) if true_positives_only else unions > 0
    return _ratio(intersections, np.where(scored, unions, 0))


def mean(scores: Float64[np.ndarray, "*N K"], axis: int = -1) -> Float64[np.ndarray, "*M"]:
    """The mean along an axis without what is nan: absent pathologies, or images that do not count.

    nan where nothing is left.
    """
    scores = np.asarray(scores, np.float64)
    there = ~np.isnan(scores)
    return _ratio(np.where(there, scores, 0).sum(axis), there.sum(axis))


def _area(masks: Bool[Array | np.ndarray, "*N H W K"]) -> Int[Array | np.ndarray, "*N K"]:
    if isinstance(masks, np.ndarray) and masks.ndim == 3:
        # One full-size radiograph: counting plane by plane takes a sixth of the time of a sum over bools.
        return np.array([np.count_nonzero(plane) for plane in np.moveaxis(masks, -1, 0)])
    return masks.sum(axis=(-3, -2))


def _over_images(pixels: Int[Array | np.ndarray, "*N K"]) -> Int[np.ndarray, " K"]:
    pixels = np.asarray(pixels, np.int64)  # 668 full-size radiographs overflow 32 bits
    return pixels.reshape(-1, pixels.shape[-1]).sum(axis=0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> Float64[np.ndarray, "..."]:
    """part / whole, nan where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
