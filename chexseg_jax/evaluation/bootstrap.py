"""How sure a score is: bootstrap over images, Student's t over trials.

The bootstrap draws with NumPy's `RandomState`, whose stream is frozen (newer generators may change between
releases), and as CheXlocalize's `eval.py` draws, so that a seed gives the published replicates.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.special import stdtrit

from chexseg_jax.evaluation.iou import Counts, mean, pooled


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval; nan where there is none."""

    estimate: Float64[np.ndarray, "*K"]
    lower: Float64[np.ndarray, "*K"]
    upper: Float64[np.ndarray, "*K"]


def draws(images: int, *, replicates: int = 1000, seed: int = 0) -> Int[np.ndarray, "R N"]:
    """Rows of images drawn with replacement, one line a replicate."""
    return np.random.RandomState(seed).randint(0, images, size=(replicates, images))


def pooled_replicates(counts: Counts, rows: Int[np.ndarray, "R N"]) -> Float64[np.ndarray, "R K"]:
    """Pooled IoU of each replicate: the images' counts are resampled, then pooled.

    A pathology that a replicate happens to have no positive image of is nan there.
    """
    images = rows.shape[1]
    if images != len(counts.positives):
        raise ValueError(f"rows draw from {images} images, counts are of {len(counts.positives)}")
    # How often each replicate holds each image: resampling is then one matrix product, exact in float64.
    times = np.stack([np.bincount(row, minlength=images) for row in rows]).astype(np.float64)
    intersections, unions, positives = (times @ np.asarray(n, np.float64) for n in counts)
    there = positives > 0
    return np.divide(intersections, unions, out=np.full(unions.shape, np.nan), where=there)


def mean_replicates(
    scores: Float[np.ndarray, "N K"], rows: Int[np.ndarray, "R N"]
) -> Float64[np.ndarray, "R K"]:
    """Mean over images of each replicate, without those whose score is nan; nan where none is left."""
    return np.stack([mean(column[rows]) for column in np.asarray(scores, np.float64).T], axis=-1)


def percentile_interval(
    estimate: Float[np.ndarray, "*K"], replicates: Float[np.ndarray, "R *K"], *, level: float = 0.95
) -> Interval:
    """The percentile interval of `replicates` around an estimate; replicates that are nan are left out."""
    replicates = np.asarray(replicates, np.float64)
    ends = np.full((2, *replicates.shape[1:]), np.nan)
    there = ~np.isnan(replicates).all(axis=0)
    tails = [50 * (1 - level), 50 * (1 + level)]
    ends[:, there] = np.nanpercentile(replicates[:, there], tails, axis=0)
    return Interval(np.asarray(estimate, np.float64), *ends)


def trial_replicates(trials: Sequence[Counts], rows: Int[np.ndarray, "R N"]) -> Float64[np.ndarray, "R K+1"]:
    """Pooled IoU of each replicate, and the mean as entry K, averaged over trials that are all resampled alike."""
    first = trials[0]
    if any(not np.array_equal(trial.positives, first.positives) for trial in trials):
        raise ValueError(
            "trials are scored against the same masks of the same images; these positives differ"
        )
    return np.mean([with_mean(pooled_replicates(trial, rows)) for trial in trials], axis=0)


def trial_scores(trials: Sequence[Counts]) -> Float64[np.ndarray, "T K+1"]:
    """Pooled IoU of each trial, and the mean as entry K."""
    return np.stack([with_mean(pooled(trial)) for trial in trials])


def paired_difference(
    a: Sequence[Counts],
    b: Sequence[Counts],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Pooled IoU of a less that of b on the same images: per pathology [K], and of the mean as entry K.

    Both are means over their trials, and all are resampled alike, so what makes an image hard for both cancels. A
    difference whose interval leaves out 0 is one at the given level.
    """
    rows = draws(len(a[0].positives), replicates=replicates, seed=seed)
    trial_replicates([a[0], b[0]], rows[:1])  # refuses a pair that is none
    return percentile_interval(
        trial_scores(a).mean(0) - trial_scores(b).mean(0),
        trial_replicates(a, rows) - trial_replicates(b, rows),
        level=level,
    )


def gap_closed(
    method: Float[np.ndarray, "*R"], baseline: Float[np.ndarray, "*R"], reader: Float[np.ndarray, "*R"]
) -> Float64[np.ndarray, "*R"]:
    """Share of the gap between a baseline and a reader that a method closes: (m - b) / (r - b); nan without a gap.

    Source: CheXseg, arXiv 2102.10484: 57.2 %, of its best semi-supervised over its best weakly supervised method.
    """
    method, baseline, reader = (np.asarray(x, np.float64) for x in (method, baseline, reader))
    gap = reader - baseline
    return np.divide(method - baseline, gap, out=np.full(np.shape(gap), np.nan), where=gap > 0)


def gap_closed_interval(
    method: Sequence[Counts],
    baseline: Sequence[Counts],
    reader: Counts,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """`gap_closed` of the mean IoU, each a mean over its trials, with a paired bootstrap over images.

    Where a tail's worth of the replicates has no gap the share has no interval (nan): the others' would be of
    selected images.
    """
    rows = draws(len(reader.positives), replicates=replicates, seed=seed)
    three = (method, baseline, [reader])
    shares = gap_closed(*(trial_replicates(trials, rows)[:, -1] for trials in three))
    if np.isnan(shares).mean() > (1 - level) / 2:
        shares = np.full_like(shares, np.nan)
    return percentile_interval(
        gap_closed(*(trial_scores(trials).mean(0)[-1] for trials in three)), shares, level=level
    )


def pooled_interval(
    counts: Counts, *, replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Pooled IoU per pathology [K], and the mean of those present as entry K, with bootstrap intervals."""
    rows = draws(len(counts.positives), replicates=replicates, seed=seed)
    return percentile_interval(
        with_mean(pooled(counts)), with_mean(pooled_replicates(counts, rows)), level=level
    )


def with_mean(scores: Float[np.ndarray, "*R K"]) -> Float64[np.ndarray, "*R K+1"]:
    """The scores of K pathologies with, last, the mean of those that are not nan."""
    return np.concatenate([scores, mean(scores)[..., None]], axis=-1)


def t_interval(values: Float[np.ndarray, "T *K"], *, level: float = 0.95) -> Interval:
    """Mean over T trials with Student's interval: mean +- t(T - 1) s / sqrt(T), s the standard deviation.

    One trial has a mean and no interval (nan).
    """
    values = np.asarray(values, np.float64)
    trials = len(values)
    if not trials:
        raise ValueError("no trials")
    middle = values.mean(axis=0)
    if trials == 1:
        return Interval(middle, np.full_like(middle, np.nan), np.full_like(middle, np.nan))
    half = stdtrit(trials - 1, (1 + level) / 2) * values.std(axis=0, ddof=1) / math.sqrt(trials)
    return Interval(middle, middle - half, middle + half)
