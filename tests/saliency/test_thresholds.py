import numpy as np
import pytest

from chexseg_jax.saliency.thresholds import (
    GRID,
    best_thresholds,
    mean_iou,
    otsu,
    pooled_iou,
    threshold_counts,
)

DRAW = np.random.default_rng(0)
SCORES = DRAW.random((3, 8, 9, 2)).astype(np.float32)
MASKS = DRAW.random((3, 8, 9, 2)) < 0.4


def test_a_score_equal_to_the_threshold_is_not_in_the_mask():
    scores = np.array([0, 0.5, 0.75, 1], np.float32).reshape(1, 2, 2, 1)
    intersections, unions = threshold_counts(scores, np.ones((1, 2, 2, 1), bool), thresholds=(0.0, 0.5, 0.75))
    assert intersections[0, :, 0].tolist() == [3, 2, 1]
    assert unions[0, :, 0].tolist() == [4, 4, 4]


def test_counts_match_a_loop_over_thresholds():
    intersections, unions = threshold_counts(SCORES, MASKS)
    assert intersections.shape == unions.shape == (3, 20, 2)
    for t, threshold in enumerate(GRID):
        predicted = np.float32(threshold) < SCORES
        np.testing.assert_array_equal(intersections[:, t], (predicted & MASKS).sum((1, 2)))
        np.testing.assert_array_equal(unions[:, t], (predicted | MASKS).sum((1, 2)))


def test_unknown_masks_have_no_weight():
    known = np.array([[True, False], [False, True], [True, True]])
    counts = threshold_counts(SCORES, MASKS)
    for partial, full in zip(threshold_counts(SCORES, MASKS, known), counts, strict=True):
        np.testing.assert_array_equal(partial, np.where(known[:, None], full, 0))
    for partial, full in zip(threshold_counts(SCORES, MASKS, known | True), counts, strict=True):
        np.testing.assert_array_equal(partial, full)
    first, second = (
        pooled_iou(*map(np.asarray, threshold_counts(SCORES[i], MASKS[i]))) for i in ([0, 2], [1, 2])
    )
    pooled = pooled_iou(*map(np.asarray, threshold_counts(SCORES, MASKS, known)))
    np.testing.assert_array_equal(pooled, np.stack([first[:, 0], second[:, 1]], -1))


def test_the_published_grid():
    np.testing.assert_allclose(GRID, np.arange(20) / 20)


def test_pooled_and_mean_iou_by_hand():
    intersections = np.array([[[1]], [[3]], [[0]]])
    unions = np.array([[[4]], [[6]], [[0]]])
    np.testing.assert_allclose(pooled_iou(intersections, unions), [[0.4]])
    counted = np.array([[True], [True], [False]])
    np.testing.assert_allclose(mean_iou(intersections, unions, counted), [[0.375]])
    assert np.isnan(mean_iou(intersections, unions, counted & False)).all()


def test_the_best_threshold_is_the_one_that_made_the_masks():
    expected = np.array([0.3, 0.7])
    counts = threshold_counts(SCORES, expected < SCORES)
    iou = pooled_iou(*map(np.asarray, counts))
    np.testing.assert_allclose(best_thresholds(iou, fallback=0.5), expected)


def test_a_task_without_examples_gets_the_fallback():
    iou = np.full((20, 2), np.nan)
    iou[:, 0] = np.linspace(0, 1, 20)
    np.testing.assert_allclose(best_thresholds(iou, fallback=0.5), [0.95, 0.5])


def test_of_equally_good_thresholds_the_lowest_is_chosen():
    iou = np.zeros((len(GRID), 2))
    iou[4:8, 0] = 0.5
    assert best_thresholds(iou, fallback=0.5).tolist() == [GRID[4], GRID[0]]


def test_otsu_matches_an_exhaustive_search_on_two_modes():
    low, high = DRAW.normal(0.25, 0.05, 600), DRAW.normal(0.7, 0.08, 300)
    values = np.clip(np.concatenate([low, high]), 0, 0.999)
    maps = values.reshape(30, 30, 1)

    def between(limit):
        below = values <= limit
        share = below.mean()
        return share * (1 - share) * (values[below].mean() - values[~below].mean()) ** 2

    best = max(np.linspace(0.3, 0.65, 200), key=between)
    assert otsu(maps)[0] == pytest.approx(best, abs=0.02)
    np.testing.assert_array_equal(otsu(np.stack([maps, maps]))[1], otsu(maps))


def test_otsu_separates_two_levels_inside_their_bins():
    maps = np.where(np.arange(64).reshape(8, 8, 1) < 40, 0.2, 0.8)
    np.testing.assert_array_equal(maps > otsu(maps), maps > 0.5)


def test_otsu_counts_only_the_pixels_in_where():
    maps = np.random.default_rng(1).random((2, 12, 8, 3))
    where = np.zeros((2, 12, 8, 1), bool)
    where[:, 3:9] = True
    blank = np.where(where, maps, 0)
    np.testing.assert_array_equal(otsu(blank, where), otsu(maps[:, 3:9]))
    assert (otsu(blank) != otsu(maps[:, 3:9])).any()


@pytest.mark.parametrize("value", [0.0, 0.4])
def test_otsu_gives_an_empty_mask_for_a_flat_map(value):
    flat = np.full((4, 4, 1), value)
    assert not (flat > otsu(flat)).any()
