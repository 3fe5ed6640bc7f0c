import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from chexseg_jax.models.layers import (
    BatchNorm,
    Conv,
    Dropout,
    average_pool,
    batch_moments,
    concatenate_moments,
    from_all_devices,
    max_pool,
    resize_bilinear,
)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def value_and_pullback(f, *arguments):
    y, pull_back = jax.vjp(jax.jit(f), *arguments)
    return y, *pull_back(normal(*y.shape, seed=9).astype(y.dtype))


def test_stride_pads_both_sides():
    """A 3x3 convolution at stride 2 is the stride-1 one at every second pixel; XLA's SAME is not."""
    x = normal(1, 6, 8, 2)
    variables = Conv(3, 3).init(jax.random.key(0), x)
    np.testing.assert_allclose(
        Conv(3, 3, 2).apply(variables, x), Conv(3, 3).apply(variables, x)[:, ::2, ::2], atol=1e-5
    )


def test_filters_begin_with_a_variance_of_two_over_their_inputs():
    kernel = Conv(64, 3).init(jax.random.key(0), jnp.zeros((1, 3, 3, 128)))["params"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
def test_max_pool(size):
    x = normal(2, *size, 3)

    def pool(x):
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    for ours, op in zip(value_and_pullback(max_pool, x), value_and_pullback(pool, x), strict=True):
        np.testing.assert_allclose(ours, op, atol=1e-6)


def test_max_pool_gives_a_tie_to_the_first():
    gradient = jax.grad(lambda x: max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0], [0, 0]])


def test_average_pool_leaves_an_odd_edge_out():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(average_pool(x)[0, :, :, 0], [[3, 5]])


def test_resize_bilinear():
    x = jnp.array([0.0, 3.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(
        resize_bilinear(x, (1, 4), align_corners=True).ravel(), [0, 1, 2, 3], atol=1e-6
    )
    np.testing.assert_allclose(
        resize_bilinear(x, (2, 4), align_corners=False).ravel(), [0, 0.75, 2.25, 3] * 2, atol=1e-6
    )
    x = normal(2, 5, 7, 3)
    np.testing.assert_allclose(
        resize_bilinear(x, (13, 6), align_corners=False),
        jax.image.resize(x, (2, 13, 6, 3), "linear", antialias=False),
        atol=1e-5,
    )
    for align_corners in (True, False):
        np.testing.assert_array_equal(resize_bilinear(x, (5, 7), align_corners=align_corners), x)
        assert resize_bilinear(x[:, :1, :1], (4, 4), align_corners=align_corners).shape == (2, 4, 4, 3)


def normalise(x, scale, bias):
    """The definition, in numpy or JAX."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return jnp.maximum((x - mean) / jnp.sqrt(var + 1e-5) * scale + bias, 0)


def test_batch_norm_by_its_definition():
    # Far from zero, where E[x^2] - E[x]^2 would lose three digits, and eighteen values a channel.
    x, scale, bias = normal(2, 3, 3, 5) + 30, normal(5, seed=1), normal(5, seed=2)
    statistics = {"mean": normal(5, seed=3), "var": np.abs(normal(5, seed=4))}

    def ours(x, scale, bias):
        variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": statistics}
        return BatchNorm().apply(variables, x, True, relu=True, mutable=["batch_stats"])[0]

    with jax.enable_x64(True):
        wide = [v.astype(np.float64) for v in (x, scale, bias)]
        expected = [np.asarray(v) for v in value_and_pullback(normalise, *wide)]
    for got, want in zip(value_and_pullback(ours, x, scale, bias), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)

    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": statistics}
    _, new = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    new = new["batch_stats"]
    np.testing.assert_allclose(new["mean"], 0.9 * statistics["mean"] + 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    unbiased = x.astype(np.float64).var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(new["var"], 0.9 * statistics["var"] + 0.1 * unbiased, rtol=1e-5)

    y = BatchNorm().apply(variables, x, False)
    root = np.sqrt(statistics["var"] + 1e-5)
    np.testing.assert_allclose(y, (x - statistics["mean"]) / root * scale + bias, rtol=1e-4, atol=1e-4)


def test_batch_norm_of_one_value():
    variables = BatchNorm().init(jax.random.key(0), normal(1, 1, 1, 4), False)
    y, new = BatchNorm().apply(variables, normal(1, 1, 1, 4), True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


def test_moments_of_a_concatenation():
    x, y = normal(2, 3, 4, 5), normal(2, 3, 4, 2, seed=1)
    joined = batch_moments(jnp.concatenate([x, y], axis=-1))
    parts = concatenate_moments([batch_moments(x), batch_moments(y)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), joined, parts)


class Tiny(nn.Module):
    """One layer of each kind whose gradient needs care when the batch is split."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = Conv(6, 3, depthwise=True)(x)
        x = BatchNorm(self.axis_name)(x, train, relu=True)
        x = max_pool(Conv(4)(x))
        return BatchNorm(self.axis_name)(x, train)


def test_two_devices_are_one():
    x = normal(4, 6, 6, 6)
    variables = Tiny().init(jax.random.key(0), x, False)

    def step(params, x, axis_name=None):
        def loss(params):
            y, new = Tiny(axis_name).apply(variables | {"params": params}, x, True, mutable=["batch_stats"])
            value = (jnp.sin(y) * y).mean()
            return (jax.lax.pmean(value, axis_name) if axis_name else value), new

        return jax.value_and_grad(loss, has_aux=True)(params)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.jit(
        jax.shard_map(
            lambda params, x: step(params, x, "data"), mesh=mesh, in_specs=(P(), P("data")), out_specs=P()
        )
    )
    one, two = jax.jit(step)(variables["params"], x), split(variables["params"], x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, two)


def over_devices(function, x):
    """Map over two devices, each with half of the rows of `x`; the results are replicated."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P())), x


def test_statistics_over_devices_take_one_collective():
    step, x = over_devices(lambda x: batch_moments(x, "data")[:2], normal(4, 3, 3, 5))
    assert len(re.findall(r"stablehlo\.(?:all|reduce|collective)_\w+", step.lower(x).as_text())) == 1


@pytest.mark.parametrize("apart", [0, 3, 1000])
def test_statistics_over_devices_are_those_of_the_whole_batch(apart):
    """Also where the devices' means are far from zero, and from each other."""
    x = (normal(4, 3, 3, 5) + 30).at[:2].add(apart)
    weights = normal(2, 5, seed=1)

    def loss(x, axis_name=None):
        mean, var, _ = batch_moments(x, axis_name)
        return (weights[0] * mean + weights[1] * jnp.sqrt(var)).sum(), (mean, var)

    def split(x):
        gradient, moments = jax.grad(partial(loss, axis_name="data"), has_aux=True)(x)
        return from_all_devices(gradient, "data"), moments

    two, x = over_devices(split, x)
    got = two(x)
    with jax.enable_x64(True):
        want = jax.grad(loss, has_aux=True)(np.asarray(x, np.float64))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def test_dropout_zeroes_its_share_and_the_same_rows_alike_on_two_devices():
    x, rngs = jnp.ones((4, 16, 16, 8)), {"dropout": jax.random.key(0)}
    one = Dropout(0.25).apply({}, x, True, rngs=rngs)
    assert (one == 0).mean() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_allclose(one[one > 0], 1 / 0.75, rtol=1e-6)
    assert not jnp.array_equal(one[0], one[1])
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    two = jax.shard_map(
        lambda x: Dropout(0.25, "data").apply({}, x, True, rngs=rngs),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )(x)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(Dropout(0.25).apply({}, x, False), x)
