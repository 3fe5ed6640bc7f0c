import re
from functools import partial

import jax
import numpy as np
import pytest
from models.test_cpu import normal, output_and_gradients

from chexseg_jax.models import cpu, gpu


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("size", "sides", "dilation"),
    [
        (3, (8, 6), 2),
        (3, (9, 7), 2),  # the phases differ in size
        (3, (9, 7), 3),
        (5, (9, 7), 2),
        (3, (9, 7), 8),  # reaches past the width, not the height
        (3, (9, 7), 24),  # the centre tap alone
        (3, (1, 1), 2),
    ],
)
def test_phases_equal_the_convolution_op_and_so_do_their_gradients(size, sides, dilation, depthwise):
    x, kernel = normal(2, *sides, 4), normal(size, size, *((1, 4) if depthwise else (4, 5)), seed=2)

    def phases(x, kernel):
        plain = partial(cpu.convolution_op, kernel=kernel, depthwise=depthwise)
        return gpu.by_phase(plain, x, dilation)

    def op(x, kernel):
        return cpu.convolution_op(x, kernel, dilation=dilation, depthwise=depthwise)

    ours, theirs = (output_and_gradients(f, x, kernel) for f in (phases, op))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_no_kernel_gradient_of_a_dilated_convolution_has_the_map_as_its_window():
    """XLA's is a convolution of the map with the output's gradient, at the dilation's stride."""

    def loss(x, kernel):
        return cpu.convolve(x, kernel, dilation=2).sum()

    with cpu.override(False):
        text = jax.jit(jax.grad(loss, (0, 1))).lower(normal(2, 20, 20, 4), normal(3, 3, 4, 5)).as_text()
    assert len(re.findall(r"stablehlo\.convolution", text)) >= 2
    assert not re.findall(r"(?:stride|rhs_dilate) = \[2, 2\]", text)
