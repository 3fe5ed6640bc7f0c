import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chexseg_jax.data.chexlocalize import encode
from chexseg_jax.evaluation.iou import (
    Counts,
    code_counts,
    counts,
    load_counts,
    mean,
    per_image,
    pooled,
    save_counts,
)

batches = hnp.arrays(
    bool, st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.just(3))
)


def square(top, left, side=10, size=40):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_two_squares_that_overlap_by_a_quarter():
    pixels = counts(square(5, 5)[..., None], square(0, 0)[..., None])
    assert [int(n[0]) for n in pixels] == [25, 175, 100]
    assert pixels.predicted.tolist() == [100]
    np.testing.assert_allclose(pooled(pixels), [25 / 175])
    np.testing.assert_allclose(per_image(pixels), [25 / 175])


def test_pooling_weights_images_by_their_pixels_and_averaging_does_not():
    truth = np.stack([square(0, 0, 4), square(0, 0, 20)])[..., None]
    prediction = np.stack([square(0, 0, 4), square(0, 20, 20)])[..., None]
    pixels = counts(prediction, truth)
    np.testing.assert_allclose(pooled(pixels), [16 / 816])
    np.testing.assert_allclose(mean(per_image(pixels), axis=0), [0.5])


def test_scored_images():
    nothing = np.zeros((40, 40), bool)
    truth = np.stack([square(0, 0), square(0, 0), nothing, nothing])[..., None]
    prediction = np.stack([square(0, 0), nothing, square(0, 0), nothing])[..., None]
    pixels = counts(prediction, truth)
    np.testing.assert_array_equal(per_image(pixels)[:, 0], [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(per_image(pixels, true_positives_only=False)[:, 0], [1, 0, 0, np.nan])
    np.testing.assert_allclose(pooled(pixels), [1 / 3])


def test_a_task_without_a_positive_pixel_is_absent_and_left_out_of_the_mean():
    truth, prediction = np.zeros((3, 8, 8, 2), bool), np.ones((3, 8, 8, 2), bool)
    truth[0, :4, :, 1] = True
    scores = pooled(counts(prediction, truth))
    np.testing.assert_allclose(scores, [np.nan, 32 / 192])
    np.testing.assert_allclose(mean(scores), 32 / 192)
    assert np.isnan(mean(np.full(3, np.nan)))


@given(batches)
def test_counts_are_the_sizes_of_intersection_and_union(pair):
    prediction, truth = pair
    pixels = counts(prediction, truth)
    np.testing.assert_array_equal(pixels.intersections, np.logical_and(prediction, truth).sum((1, 2)))
    np.testing.assert_array_equal(pixels.unions, np.logical_or(prediction, truth).sum((1, 2)))
    np.testing.assert_array_equal(pixels.predicted, prediction.sum((1, 2)))
    for one, row in zip(range(len(truth)), zip(*pixels, strict=True), strict=True):
        np.testing.assert_array_equal(counts(prediction[one], truth[one]), row)


@given(batches)
def test_iou_is_symmetric_bounded_and_one_for_equal_masks(pair):
    a, b = pair
    scores = pooled(counts(a, b))
    both = a.any((0, 1, 2)) & b.any((0, 1, 2))
    np.testing.assert_array_equal(scores[both], pooled(counts(b, a))[both])
    assert ((scores[both] >= 0) & (scores[both] <= 1)).all()
    np.testing.assert_array_equal(pooled(counts(a, a)), np.where(a.any((0, 1, 2)), 1, np.nan))


@given(batches)
def test_counting_on_run_lengths_equals_counting_pixels(pair):
    a, b = pair[0, 0, ..., 0], pair[1, 0, ..., 0]
    expected = counts(a[..., None], b[..., None])
    assert code_counts(encode(a), encode(b)) == tuple(int(n[0]) for n in expected)


def test_jax_arrays_give_the_same_counts():
    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 3, 16, 16, 10)) < 0.4
    on_device = jax.jit(counts)(jnp.asarray(prediction), jnp.asarray(truth))
    for jax_array, array in zip(on_device, counts(prediction, truth), strict=True):
        np.testing.assert_array_equal(jax_array, array)
    np.testing.assert_array_equal(pooled(on_device), pooled(counts(prediction, truth)))


def test_sums_do_not_overflow_32_bits():
    pixels = np.full((3, 1), 2**30, np.int32)
    np.testing.assert_array_equal(pooled(Counts(pixels, pixels, pixels)), [1])


@given(batches, st.data())
def test_an_unknown_mask_has_no_weight(pair, data):
    prediction, truth = pair
    known = data.draw(hnp.arrays(bool, (len(truth), 3)))
    pixels = counts(prediction, truth).where(known)
    for k in range(3):
        rows = known[:, k]
        alone = counts(prediction[rows][..., [k]], truth[rows][..., [k]])
        np.testing.assert_array_equal(pooled(pixels)[k], pooled(alone)[0])
        for true_positives_only in (True, False):
            scores = per_image(pixels, true_positives_only=true_positives_only)[:, k]
            assert np.isnan(scores[~rows]).all()
            np.testing.assert_array_equal(
                scores[rows], per_image(alone, true_positives_only=true_positives_only)[:, 0]
            )


def test_saved_counts_load_by_name(tmp_path):
    images = [counts(square(5, 5)[..., None], square(n, 0)[..., None]) for n in range(3)]
    save_counts(tmp_path, {"model": images, "box": images[::-1]})
    loaded = load_counts(tmp_path)
    assert list(loaded) == ["box", "model"]
    np.testing.assert_array_equal(loaded["model"], np.stack(images, axis=1))
    np.testing.assert_array_equal(loaded["box"], np.stack(images[::-1], axis=1))
