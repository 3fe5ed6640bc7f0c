import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexseg_jax.models import cpu


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def output_and_gradients(function, *arguments):
    y, pull_back = jax.vjp(jax.jit(function), *arguments)
    return y, *pull_back(normal(*y.shape, seed=1))


def on_both(function):
    """`function()` in the CPU's way and in the other."""
    results = []
    for on in (True, False):
        with cpu.override(on):
            results.append(function())
    return results


@pytest.mark.parametrize(
    ("size", "features", "stride", "dilation"),
    [
        (3, 3, 1, 1),  # the gradient copies the map of fewer channels
        (3, 5, 1, 1),
        (3, 3, 1, 2),
        (3, 3, 1, 9),
        (3, 3, 2, 1),
        (7, 5, 2, 1),
    ],
)
@pytest.mark.parametrize("lowering", [cpu.dense, cpu.gathered])
def test_products_equal_the_convolution_op_and_so_do_their_gradients(
    lowering, size, features, stride, dilation
):
    x, kernel = normal(2, 9, 7, 4), normal(size, size, 4, features, seed=2)
    ours, op = (
        output_and_gradients(lambda x, k, f=function: f(x, k, stride, dilation), x, kernel)
        for function in (lowering, cpu.convolution_op)
    )
    for a, b in zip(ours, op, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((1, 1, 4, 5), {}),
        ((1, 1, 4, 5), {"stride": 2}),
        ((3, 3, 1, 4), {"depthwise": True}),
        ((3, 3, 1, 4), {"depthwise": True, "stride": 2}),
        ((3, 3, 1, 4), {"depthwise": True, "dilation": 3}),
        ((3, 3, 1, 4), {"depthwise": True, "dilation": 8}),  # reaches past the width, not the height
        ((3, 3, 1, 4), {"depthwise": True, "dilation": 24}),  # the centre tap alone
        ((3, 3, 4, 5), {}),
        ((3, 3, 4, 5), {"dilation": 2}),
        ((3, 3, 4, 5), {"dilation": 8}),
        ((3, 3, 4, 5), {"dilation": 24}),
        ((1, 1, 4, 5), {"dilation": 2}),
    ],
)
def test_both_lowerings_agree(kernel, options):
    x, kernel = normal(2, 9, 7, 4), normal(*kernel, seed=2)
    ours, op = on_both(lambda: output_and_gradients(lambda x, k: cpu.convolve(x, k, **options), x, kernel))
    for a, b in zip(ours, op, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_traced_program_serves_one_way_only():
    @jax.jit
    def way(x):
        return jnp.where(cpu.on_cpu(), x, -x)

    @jax.jit
    def outer(x):
        return jax.lax.map(way, x)

    assert (outer(jnp.ones(2)) == 1).all()
    for _ in range(2):
        for on, sign in ((False, -1), (True, 1)):
            with cpu.override(on):
                assert (outer(jnp.ones(2)) == sign).all()
                assert way(1.0) == sign
    assert cpu.on_cpu()


def test_images_are_mapped_one_at_a_time():
    seen = []

    def function(images):
        seen.append(images.shape)
        return {"twice": 2 * images, "mean": images.mean((1, 2))}

    x = normal(3, 4, 5, 2)
    mapped = cpu.map_images(function, x)
    assert seen == [(1, 4, 5, 2)]
    np.testing.assert_array_equal(mapped["twice"], 2 * x)
    np.testing.assert_allclose(mapped["mean"], x.mean((1, 2)), atol=1e-6)
