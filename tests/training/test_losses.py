import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from chexseg_jax.training.losses import bce_loss, dice_loss
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh

LOGITS = np.random.default_rng(0).standard_normal((4, 6, 5, 3)).astype(np.float32)
MASKS = (np.random.default_rng(1).random((4, 6, 5, 3)) < 0.3).astype(np.float32)


def test_dice_by_hand():
    probability = 1 / (1 + np.exp(-LOGITS))
    terms = [
        (2 * (probability * MASKS)[..., c].sum() + 1) / (probability[..., c].sum() + MASKS[..., c].sum() + 1)
        for c in range(3)
    ]
    np.testing.assert_allclose(dice_loss(LOGITS, MASKS), 1 - np.mean(terms), rtol=1e-6)


def test_dice_at_its_ends():
    assert float(dice_loss(jnp.where(MASKS > 0, 50.0, -50.0), MASKS)) == pytest.approx(0, abs=1e-5)
    nothing = jnp.zeros_like(MASKS)
    assert float(dice_loss(nothing - 50.0, nothing)) == pytest.approx(
        0, abs=1e-5
    )  # smoothed: empty and rightly so


def test_bce_by_hand_and_ignored_labels():
    logits, targets = LOGITS[:, 0, 0], MASKS[:, 0, 0]
    weights = np.array([[1, 0, 1]] * 4, np.float32)
    probability = 1 / (1 + np.exp(-logits))
    each = -(targets * np.log(probability) + (1 - targets) * np.log(1 - probability))
    np.testing.assert_allclose(bce_loss(logits, targets, weights), each[:, [0, 2]].mean(), rtol=1e-5)
    changed = bce_loss(logits + np.float32([[0, 9, 0]]), targets, weights)
    np.testing.assert_allclose(changed, bce_loss(logits, targets, weights), rtol=1e-6)
    assert float(bce_loss(logits, targets, 0 * weights)) == 0


@pytest.mark.parametrize("which", ["dice", "bce"])
def test_split_over_devices_they_are_those_of_the_whole_batch(which):
    """Values and gradients, where the parts are unlike (uneven weights, masks in one part only)."""
    masks = MASKS.copy()
    masks[:2] = 0
    weights = np.ones((4, 3), np.float32)
    weights[:2, 1:] = 0

    def whole(logits, axis_name=None, part=slice(None)):
        if which == "dice":
            return dice_loss(logits, jnp.asarray(masks)[part], axis_name)
        return bce_loss(
            logits[:, 0, 0], jnp.asarray(masks)[part][:, 0, 0], jnp.asarray(weights)[part], axis_name
        )

    def split(scale, logits, masks, weights):
        def loss(scale):
            if which == "dice":
                value = dice_loss(scale * logits, masks, DATA_AXIS)
            else:
                value = bce_loss(scale * logits[:, 0, 0], masks[:, 0, 0], weights, DATA_AXIS)
            return jax.lax.pmean(value, DATA_AXIS)

        return jax.value_and_grad(loss)(scale)

    sharded = jax.shard_map(
        split, mesh=data_mesh(), in_specs=(P(), P(DATA_AXIS), P(DATA_AXIS), P(DATA_AXIS)), out_specs=P()
    )
    value, gradient = sharded(jnp.ones(()), LOGITS, masks, weights)
    expected, expected_gradient = jax.value_and_grad(lambda scale: whole(scale * LOGITS))(jnp.ones(()))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5)
