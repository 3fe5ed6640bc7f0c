import jax.numpy as jnp
import numpy as np
import optax
import pytest

from chexseg_jax.training.optim import adam, sgd, sgd_cosine


def rates(optimizer, steps: int) -> np.ndarray:
    """The step Adam takes on a constant gradient is its rate."""
    params, state, taken = jnp.zeros(()), optimizer.init(jnp.zeros(())), []
    for _ in range(steps):
        updates, state = optimizer.update(jnp.ones(()), state, params)
        taken.append(-float(updates))
    return np.array(taken)


def test_the_published_rate_is_constant():
    np.testing.assert_allclose(rates(adam(1e-4), 20), 1e-4, rtol=1e-4)


def test_it_is_adam_with_the_published_betas():
    ours, reference = adam(0.1), optax.adam(0.1, b1=0.9, b2=0.999)
    params = jnp.array([1.0, -3.0])
    states = [o.init(params) for o in (ours, reference)]
    for gradient in (jnp.array([1.0, 2.0]), jnp.array([-3.0, 0.1])):
        (a, states[0]), (b, states[1]) = (
            o.update(gradient, s, params) for o, s in zip((ours, reference), states, strict=True)
        )
        np.testing.assert_array_equal(a, b)


def test_warm_up_and_decay():
    taken = rates(adam(1.0, warmup_steps=10, decay_steps=50), 50)
    assert taken[0] == pytest.approx(0)
    assert np.argmax(taken) == 10
    assert taken[10] == pytest.approx(1.0, rel=1e-3)
    assert taken[30] == pytest.approx(0.5, rel=1e-2)
    assert taken[-1] < 0.01


def test_sgd_decays_to_zero_by_a_power():
    taken = rates(sgd(0.5, steps=20, power=0.9), 21)
    np.testing.assert_allclose(taken, 0.5 * (1 - np.arange(21) / 20) ** 0.9, rtol=1e-5, atol=1e-7)


def test_momentum_adds_up():
    params, optimizer = jnp.zeros(()), sgd(1.0, steps=1000, momentum=0.5)
    state = optimizer.init(params)
    _, state = optimizer.update(jnp.ones(()), state, params)
    update, _ = optimizer.update(jnp.ones(()), state, params)
    assert -float(update) == pytest.approx(1.5, rel=1e-2)


def test_mocos_sgd_is_pytorchs_with_a_cosine():
    """`torch.optim.SGD`: weight decay joins the gradient, the momentum adds up gradients, the rate scales their sum."""
    steps, rate, momentum, decay = 12, 0.3, 0.9, 0.05
    optimizer = sgd_cosine(rate, steps=steps, momentum=momentum, weight_decay=decay)
    params = jnp.array([2.0, -1.0])
    state, expected, buffer = optimizer.init(params), np.array([2.0, -1.0]), 0.0
    for step, gradient in enumerate(np.random.default_rng(0).normal(size=(steps, 2))):
        updates, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        buffer = momentum * buffer + gradient + decay * expected
        expected = expected - rate * (1 + np.cos(np.pi * step / steps)) / 2 * buffer
        np.testing.assert_allclose(params, expected, rtol=1e-4)
