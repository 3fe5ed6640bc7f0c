import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.evaluation.bootstrap import (
    draws,
    gap_closed,
    gap_closed_interval,
    mean_replicates,
    paired_difference,
    percentile_interval,
    pooled_interval,
    pooled_replicates,
    t_interval,
    with_mean,
)
from chexseg_jax.evaluation.iou import Counts, pooled


def some_counts(images=30, tasks=3, seed=0, skill=0.5):
    rng = np.random.default_rng(seed)
    positives = rng.integers(0, 1000, (images, tasks)) * (rng.random((images, tasks)) < 0.6)
    intersections = (positives * np.clip(rng.normal(skill, 0.1, positives.shape), 0, 1)).astype(int)
    return Counts(intersections, positives + rng.integers(0, 300, positives.shape), positives)


def take(counts, rows):
    return Counts(*(n[rows] for n in counts))


def test_draws_equal_the_published_codes_and_are_repeatable():
    np.random.seed(3)  # noqa: NPY002 (what the published code does)
    published = [np.random.choice(7, size=7, replace=True) for _ in range(5)]  # noqa: NPY002
    np.testing.assert_array_equal(draws(7, replicates=5, seed=3), published)
    assert not np.array_equal(draws(7, seed=0), draws(7, seed=1))


def test_pooled_replicates_equal_the_pooled_iou_of_the_drawn_images():
    counts, rows = some_counts(), draws(30, replicates=20)
    expected = [pooled(take(counts, row)) for row in rows]
    np.testing.assert_allclose(pooled_replicates(counts, rows), expected, rtol=1e-14)
    with pytest.raises(ValueError, match="draw from 30 images"):
        pooled_replicates(take(counts, slice(5)), rows)


def test_a_replicate_without_a_positive_image_is_nan_and_leaves_the_interval_defined():
    counts = Counts(
        *(np.array([[one], [other]]) for one, other in ((3, 0), (4, 2), (4, 0)))
    )  # two false positives
    replicates = pooled_replicates(counts, draws(2))
    assert 0.15 < np.isnan(replicates).mean() < 0.35
    assert set(replicates[~np.isnan(replicates)]) == {3 / 4, 3 / 6}
    assert [float(end[0]) for end in pooled_interval(counts)] == [0.5, 0.5, 0.75]


def test_mean_replicates_leave_out_nan():
    scores = np.array([[0.2, np.nan], [np.nan, np.nan], [0.6, np.nan]])
    rows = np.array([[0, 1, 2], [1, 1, 1], [0, 0, 2]])
    expected = [[0.4, np.nan], [np.nan, np.nan], [1 / 3, np.nan]]
    np.testing.assert_allclose(mean_replicates(scores, rows), expected)


def test_the_interval_contains_the_estimate_narrows_with_images_and_covers_the_truth():
    wide, narrow = pooled_interval(some_counts(30)), pooled_interval(some_counts(600))
    for interval in (wide, narrow):
        assert interval.estimate.shape == (4,)
        assert (interval.lower <= interval.estimate).all()
        assert (interval.estimate <= interval.upper).all()
    assert (narrow.upper - narrow.lower < wide.upper - wide.lower).all()
    truth = pooled(some_counts(50_000))
    inside = [
        (interval.lower[:3] <= truth) & (truth <= interval.upper[:3])
        for interval in (pooled_interval(some_counts(60, seed=seed), replicates=200) for seed in range(60))
    ]
    assert 0.85 < np.mean(inside) <= 1


def test_intervals_of_absent_tasks_are_nan():
    counts = Counts(*(np.zeros((4, 2), int) for _ in range(3)))
    assert all(np.isnan(end).all() for end in pooled_interval(counts))


def test_pooled_interval_of_trials_is_their_mean():
    a, b = some_counts(30), some_counts(30, skill=0.5)
    worse = Counts(b.intersections // 2, b.unions, b.positives)
    np.testing.assert_array_equal(pooled_interval(a, a), pooled_interval(a))
    np.testing.assert_allclose(
        pooled_interval(a, worse).estimate,
        (pooled_interval(a).estimate + pooled_interval(worse).estimate) / 2,
    )


def test_percentiles_of_known_replicates():
    interval = percentile_interval(np.array(50.0), np.arange(101.0), level=0.9)
    np.testing.assert_allclose(interval, (50, 5, 95))


def test_with_mean_appends_the_mean():
    np.testing.assert_allclose(with_mean(np.array([[0.2, np.nan, 0.4]])), [[0.2, np.nan, 0.4, 0.3]])


def test_a_pair_is_resampled_alike():
    a = some_counts(40)
    better = Counts(a.intersections + (a.positives - a.intersections) // 2, a.unions, a.positives)
    assert all((end == 0).all() for end in paired_difference([a], [a, a]))
    gain = paired_difference([better], [a])
    assert (gain.lower > 0).all()
    apart = pooled_interval(better)
    assert (gain.upper - gain.lower < apart.upper - apart.lower).all()
    np.testing.assert_allclose(gain.estimate[:3], pooled(better) - pooled(a))
    with pytest.raises(ValueError, match="positives differ"):
        paired_difference([a], [some_counts(40, seed=1)])


def test_pairs_are_compared_by_their_means_over_trials():
    a, other = some_counts(30), some_counts(30)
    worse = Counts(other.intersections // 2, other.unions, other.positives)
    gain = paired_difference([a, worse], [worse])
    np.testing.assert_allclose(gain.estimate[:3], (pooled(a) - pooled(worse)) / 2)
    assert (gain.lower > 0).all()


def test_the_papers_gap():
    """Weak .156, semi .270 and 57.2 % imply .355 for the paper's radiologists."""
    assert gap_closed(0.270, 0.156, 0.3553) == pytest.approx(0.572, abs=5e-4)
    assert np.isnan(gap_closed(0.3, 0.2, 0.2))


def test_the_gap_closed_has_a_paired_interval():
    reader, method, baseline = (
        Counts(c.intersections // divisor, c.unions, c.positives)
        for c, divisor in ((some_counts(40), 1), (some_counts(40), 2), (some_counts(40), 4))
    )
    closed = gap_closed_interval([method, method], [baseline], reader)
    low, mid, high = (pooled(c).mean() for c in (baseline, method, reader))
    assert closed.estimate == pytest.approx((mid - low) / (high - low))
    assert closed.lower < closed.estimate < closed.upper
    whole = gap_closed_interval([reader], [baseline], reader)
    assert all(end == pytest.approx(1) for end in whole)


def test_a_task_that_the_reader_did_not_annotate_is_in_no_mean_of_the_gap():
    """Else a mean of the models' tasks would be set against one of the reader's."""
    read = np.arange(some_counts(40).positives.shape[1]) > 0
    reader, method, baseline = (
        Counts(c.intersections // divisor, c.unions, c.positives)
        for c, divisor in ((some_counts(40), 1), (some_counts(40), 2), (some_counts(40), 4))
    )
    closed = gap_closed_interval([method], [baseline], reader.where(read))
    low, mid, high = (pooled(c)[1:].mean() for c in (baseline, method, reader))
    assert closed.estimate == pytest.approx((mid - low) / (high - low))


def test_without_a_gap_in_many_replicates_the_interval_is_nan():
    a = some_counts(40)
    rng = np.random.default_rng(0)
    noisy = (rng.integers(0, 2, a.intersections.shape) * a.intersections // 2 for _ in range(2))
    reader, baseline = sorted(
        (Counts(n, a.unions, a.positives) for n in noisy), key=lambda c: -pooled(c).mean()
    )
    closed = gap_closed_interval([a], [baseline], reader)
    assert closed.estimate > 0
    assert np.isnan([closed.lower, closed.upper]).all()


def test_t_interval_of_three_trials():
    interval = t_interval([0.1, 0.2, 0.3])
    half = 4.302652729696142 * 0.1 / np.sqrt(3)  # t(0.975; 2), from a table
    np.testing.assert_allclose(interval, [0.2, 0.2 - half, 0.2 + half])
    one = t_interval(np.array([[0.25, 0.5]]))
    assert one.estimate.tolist() == [0.25, 0.5]
    assert np.isnan([one.lower, one.upper]).all()
    with pytest.raises(ValueError, match="no trials"):
        t_interval([])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(-3, 3))
def test_t_interval_shifts_with_the_values(values, shift):
    shifted, original = t_interval(np.array(values) + shift), t_interval(values)
    np.testing.assert_allclose(np.array(shifted) - shift, original, atol=1e-6)
