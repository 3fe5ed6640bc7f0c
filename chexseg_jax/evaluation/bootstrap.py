"""Confidence intervals of scores: bootstrap over images, Student's t over trials.

The bootstrap draws with NumPy's `RandomState`, whose stream is frozen (newer generators may change between
releases), in the way of CheXlocalize's `eval.py`, so that a seed gives the published replicates.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Float64, Int
from scipy.special import stdtrit

from chexseg_jax.evaluation.iou import Counts, mean, pooled


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval; nan if undefined."""

    estimate: Float64[np.ndarray, "*K"]
    lower: Float64[np.ndarray, "*K"]
    upper: Float64[np.ndarray, "*K"]


def draws(images: int, *, replicates: int = 1000, seed: int = 0) -> Int[np.ndarray, "R N"]:
    """Draw images with replacement: one row of indices per replicate."""
    return np.random.RandomState(seed).randint(0, images, size=(replicates, images))


def pooled_replicates(counts: Counts, rows: Int[np.ndarray, "R N"]) -> Float64[np.ndarray, "R K"]:
    """Pooled IoU of each replicate: resample the images' counts, then pool them.

    A task is nan in a replicate without a positive image of it.
    """
    images = rows.shape[1]
    if images != len(counts.positives):
        raise ValueError(f"rows draw from {images} images, counts are of {len(counts.positives)}")
    # Counting how often each replicate holds each image makes resampling one matrix product, exact in float64.
    times = np.stack([np.bincount(row, minlength=images) for row in rows]).astype(np.float64)
    intersections, unions, positives = (times @ np.asarray(n, np.float64) for n in counts)
    return np.divide(intersections, unions, out=np.full(unions.shape, np.nan), where=positives > 0)


def mean_replicates(
    scores: Float[np.ndarray, "N K"], rows: Int[np.ndarray, "R N"]
) -> Float64[np.ndarray, "R K"]:
    """Mean over the images of each replicate, leaving out nan scores; nan without any score."""
    return np.stack([mean(column[rows]) for column in np.asarray(scores, np.float64).T], axis=-1)


def trial_replicates(
    trials: Sequence[Counts], rows: Int[np.ndarray, "R N"]
) -> Float64[np.ndarray, "R K_and_mean"]:
    """Pooled IoU of each replicate and, last, its mean; averaged over trials, which are resampled alike."""
    _check_same_masks(trials)
    return np.mean([with_mean(pooled_replicates(trial, rows)) for trial in trials], axis=0)


def trial_scores(trials: Sequence[Counts]) -> Float64[np.ndarray, "T K_and_mean"]:
    """Pooled IoU of each trial and, last, its mean."""
    return np.stack([with_mean(pooled(trial)) for trial in trials])


def percentile_interval(
    estimate: Float[ArrayLike, "*K"], replicates: Float[np.ndarray, "R *K"], *, level: float = 0.95
) -> Interval:
    """The percentile interval of `replicates` around an estimate; nan replicates are left out."""
    replicates = np.asarray(replicates, np.float64)
    ends = np.full((2, *replicates.shape[1:]), np.nan)
    defined = ~np.isnan(replicates).all(axis=0)
    tails = [50 * (1 - level), 50 * (1 + level)]
    ends[:, defined] = np.nanpercentile(replicates[:, defined], tails, axis=0)
    return Interval(np.asarray(estimate, np.float64), *ends)


def pooled_interval(*trials: Counts, replicates: int = 1000, seed: int = 0) -> Interval:
    """Pooled IoU, mean over trials, with 95 % bootstrap intervals over images: K tasks and, last, their mean."""
    rows = draws(len(trials[0].positives), replicates=replicates, seed=seed)
    return percentile_interval(trial_scores(trials).mean(0), trial_replicates(trials, rows))


def paired_difference(
    a: Sequence[Counts], b: Sequence[Counts], *, replicates: int = 1000, seed: int = 0
) -> Interval:
    """Pooled IoU of `a` minus pooled IoU of `b` on the same images: K tasks and, last, their mean.

    Both are means over their trials. All trials are resampled alike, so what makes an image hard for both cancels. The
    difference is significant at 95 % if the interval excludes 0.
    """
    _check_same_masks([*a, *b])
    rows = draws(len(a[0].positives), replicates=replicates, seed=seed)
    return percentile_interval(
        trial_scores(a).mean(0) - trial_scores(b).mean(0),
        trial_replicates(a, rows) - trial_replicates(b, rows),
    )


def gap_closed(
    method: Float[ArrayLike, "*R"], baseline: Float[ArrayLike, "*R"], reader: Float[ArrayLike, "*R"]
) -> Float64[np.ndarray, "*R"]:
    """Share of the gap between a baseline and a reader that a method closes: (m - b) / (r - b); nan without a gap.

    Source: CheXseg, arXiv 2102.10484: 57.2 % for its best semi-supervised over its best weakly supervised method.
    """
    method, baseline, reader = (np.asarray(x, np.float64) for x in (method, baseline, reader))
    gap = np.asarray(reader - baseline)
    return np.divide(method - baseline, gap, out=np.full(gap.shape, np.nan), where=gap > 0)


def gap_closed_interval(
    method: Sequence[Counts],
    baseline: Sequence[Counts],
    reader: Counts,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """`gap_closed` of the mean IoU, mean over trials, with a 95 % paired bootstrap interval over images.

    A task that the reader annotated on no image, although the others' masks are known, is left out of all three means.
    The interval is nan if more than 2.5 % of the replicates have no gap: the others would be a biased selection.
    """
    rows = draws(len(reader.positives), replicates=replicates, seed=seed)
    read = np.asarray(reader.positives).any(0)
    three = [
        [Counts(*(np.asarray(n)[:, read] for n in trial)) for trial in trials]
        for trials in (method, baseline, [reader])
    ]
    shares = gap_closed(*(trial_replicates(trials, rows)[:, -1] for trials in three))
    if np.isnan(shares).mean() > 0.025:
        shares = np.full_like(shares, np.nan)
    return percentile_interval(gap_closed(*(trial_scores(trials).mean(0)[-1] for trials in three)), shares)


def with_mean(scores: Float[np.ndarray, "*R K"]) -> Float64[np.ndarray, "*R K+1"]:
    """Append the mean of the K tasks' scores that are not nan."""
    return np.concatenate([scores, mean(scores)[..., None]], axis=-1)


def t_interval(values: Float[np.ndarray, "T *K"] | Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean over T trials with Student's interval: mean +- t(T - 1) s / sqrt(T), s the standard deviation.

    The interval of a single trial is nan.
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


def _check_same_masks(trials: Sequence[Counts]) -> None:
    if any(not np.array_equal(trial.positives, trials[0].positives) for trial in trials):
        raise ValueError(
            "the positives differ between trials; score all trials on the same masks of the same images"
        )
