import numpy as np
import pytest

from chexseg_jax.evaluation.probe import apply_probe, fit_probe


def data(count=400):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((count, 5))
    logits = x @ np.array([[2.0, 0], [0, -1], [0, 0], [0, 0], [0, 0]]) + np.array([0.5, -1])
    return x, (draw.random((count, 2)) < 1 / (1 + np.exp(-logits))).astype(float)


def test_it_recovers_the_coefficients_behind_the_labels():
    x, y = data(20_000)
    fitted = fit_probe(x, y, np.ones_like(y), penalty=1e-6)
    np.testing.assert_allclose(fitted[0], [2, 0], atol=0.1)
    np.testing.assert_allclose(fitted[1], [0, -1], atol=0.1)
    np.testing.assert_allclose(fitted[-1], [0.5, -1], atol=0.1)


def test_the_gradient_is_zero_at_the_optimum():
    x, y = data()
    w = fit_probe(x, y, np.ones_like(y), penalty=0.1)
    error = (1 / (1 + np.exp(-apply_probe(x, w))) - y) / len(x)
    np.testing.assert_allclose(x.T @ error + 0.1 * w[:-1], 0, atol=1e-4)
    np.testing.assert_allclose(error.sum(0), 0, atol=1e-4)


def test_entries_of_weight_zero_have_no_effect():
    x, y = data()
    weights = np.ones_like(y)
    weights[200:, 0] = 0
    spoiled = y.copy()
    spoiled[200:, 0] = 1 - y[200:, 0]
    fitted = fit_probe(x, spoiled, weights, penalty=0.01)
    alone = fit_probe(x[:200], y[:200, :1], np.ones((200, 1)), penalty=0.01)
    np.testing.assert_allclose(fitted[:, :1], alone, atol=1e-3)


def test_a_task_without_labels_stays_at_chance():
    x, y = data()
    assert fit_probe(x, y, np.zeros_like(y), penalty=0.1) == pytest.approx(0)
