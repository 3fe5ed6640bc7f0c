import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from chexseg_jax import models
from chexseg_jax.training.state import initial_variables


def test_initial_variables_are_those_of_the_module():
    module = models.create("resnet18", num_classes=3)
    params, model_state = initial_variables(module, 32)(jax.random.key(5))
    expected = jax.jit(module.init)(jax.random.key(5), jnp.zeros((1, 32, 32, 3)))
    assert model_state.keys() == {"batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, {"params": params, **model_state}, expected)


def test_filters_begin_with_the_variance_of_torchvisions():
    """`kaiming_normal_(mode="fan_out", nonlinearity="relu")`: 2 / (9 * 128) for 3x3 filters from 64 to 128 channels."""
    params, _ = initial_variables(models.create("resnet18", num_classes=3), 32)(jax.random.key(5))
    assert params["layer2_0"]["conv1"]["kernel"].shape == (3, 3, 64, 128)
    assert np.std(params["layer2_0"]["conv1"]["kernel"]) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


def test_a_module_without_batch_statistics_has_an_empty_model_state():
    params, model_state = initial_variables(nn.Conv(2, (3, 3)), 8, channels=1)(jax.random.key(0))
    assert params["kernel"].shape == (3, 3, 1, 2)
    assert model_state == {}


def test_equal_modules_share_one_compilation():
    one, other = (models.create("resnet18", num_classes=3) for _ in range(2))
    assert initial_variables(one, 32) is initial_variables(other, 32)
