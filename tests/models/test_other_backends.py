"""What a GPU computes, run here: every program without the CPU's lowerings equals the one with them.

In float64, where rounding decides no ReLU: values, statistics and all gradients agree to eight digits. IRNet's loss and
the random walk are compared in tests/irnet.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import jit
from tiny import he_weights

from chexseg_jax import models
from chexseg_jax.models import cpu, densenet, irnet
from chexseg_jax.models.moco import Embedder
from chexseg_jax.models.resnet import ResNet
from chexseg_jax.saliency.gradcam import grad_cam


@pytest.fixture(autouse=True)
def one_block_a_stage(monkeypatch):
    """Each network with one block per stage, which has all its kinds of layers."""
    shallow = partial(ResNet, depths=(1, 1, 1, 1))
    monkeypatch.setitem(models.ENCODERS, "resnet18", partial(shallow, bottleneck=False))
    monkeypatch.setitem(models.ENCODERS, "resnet50", partial(shallow, bottleneck=True))
    monkeypatch.setattr(irnet, "ResNet50", models.ENCODERS["resnet50"])
    monkeypatch.setattr(densenet, "DEPTHS", (2, 1, 1, 1))


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape)


def weights(module):
    with jax.enable_x64(True):
        return he_weights(module)


def assert_equal_both_ways(function, *arguments):
    """Compare `function(*arguments)` in the CPU's way and in the others', value by value."""
    with jax.enable_x64(True):
        arguments = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), arguments)
        results = []
        for on_cpu in (True, False):
            with cpu.override(on_cpu):
                results.append(jit(function)(*arguments))
    for (path, a), b in zip(jax.tree.leaves_with_path(results[0]), jax.tree.leaves(results[1]), strict=True):
        assert a.dtype == jnp.float64
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 * np.abs(a).max() + 1e-12, err_msg=str(path))


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "deeplabv3plus_resnet18", "irnet", "moco"])
def test_networks(name):
    if name == "moco":
        module = Embedder(models.create("resnet18", num_classes=0, dtype="float64"))
    else:
        dropout = {"aspp_dropout": 0.0} if name.startswith("deeplab") else {}
        module = models.create(name, num_classes=3 * (name != "irnet"), dtype="float64", **dropout)

    def step(params, statistics, x):
        def loss(params):
            variables = {"params": params, "batch_stats": statistics}
            outputs, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
            # A linear function of the outputs, the gradient of whose coefficients is known to no layer.
            outputs = jax.tree.leaves(outputs)
            total = sum((y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum() for y in outputs)
            return total, (outputs, updated)

        return jax.value_and_grad(loss, has_aux=True)(params)

    variables = weights(module)
    assert_equal_both_ways(step, variables["params"], variables["batch_stats"], normal(2, 64, 64, 3))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_saliency(name):
    module = models.create(name, num_classes=3, dtype="float64")
    variables, x = weights(module), normal(2, 64, 64, 3)
    assert_equal_both_ways(
        lambda v, x: [grad_cam(module, v, x, plus_plus=on) for on in (False, True)], variables, x
    )
