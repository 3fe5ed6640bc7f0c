import jax
import numpy as np
import pytest

from chexseg_jax.models.convolutions import convolution, dense


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
def test_dense_is_the_convolution_op_and_so_are_its_gradients(size, features, stride, dilation):
    draw = np.random.default_rng(0)
    x, kernel = (
        draw.standard_normal(shape).astype(np.float32) for shape in [(2, 9, 7, 4), (size, size, 4, features)]
    )
    results = []
    for function in (dense, convolution):
        y, pull_back = jax.vjp(lambda x, k, f=function: f(x, k, stride, dilation), x, kernel)
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
        results.append((y, *pull_back(dy)))
    for ours, op in zip(*results, strict=True):
        np.testing.assert_allclose(ours, op, atol=1e-4)
