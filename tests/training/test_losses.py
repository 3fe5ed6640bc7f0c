import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from chexseg_jax.training.losses import bce_loss, dice_loss
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh

LOGITS = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6, 5, 3)), jnp.float32)
MASKS = jnp.asarray(np.random.default_rng(1).random((4, 6, 5, 3)) < 0.3, jnp.float32)
#: The last task is unknown in every image.
KNOWN = jnp.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0]], bool)


def test_dice_by_hand():
    probability = 1 / (1 + np.exp(-LOGITS))
    terms = [
        (2 * (probability * MASKS)[..., c].sum() + 1) / (probability[..., c].sum() + MASKS[..., c].sum() + 1)
        for c in range(3)
    ]
    np.testing.assert_allclose(dice_loss(LOGITS, MASKS), 1 - np.mean(terms), rtol=1e-6)


def test_dice_limits():
    assert float(dice_loss(jnp.where(MASKS > 0, 50.0, -50.0), MASKS)) == pytest.approx(0, abs=1e-5)
    empty = jnp.zeros_like(MASKS)  # the smoothing makes an empty prediction of an empty mask perfect
    assert float(dice_loss(empty - 50.0, empty)) == pytest.approx(0, abs=1e-5)


def test_unknown_tasks_have_no_weight():
    weight = KNOWN[:, None, None].astype(jnp.float32)
    probability = jax.nn.sigmoid(LOGITS)
    intersection, predicted, truth = (
        (x * weight).sum((0, 1, 2)) for x in (probability * MASKS, probability, MASKS)
    )
    terms = (2 * intersection + 1) / (predicted + truth + 1)
    assert terms[2] == 1
    for known in (KNOWN, KNOWN.astype(jnp.float32)):
        np.testing.assert_allclose(dice_loss(LOGITS, MASKS, known=known), 1 - terms.mean(), rtol=1e-6)


@pytest.mark.parametrize("extreme", [0.0, 3e38, -3e38, jnp.inf, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_of_unknown_logits_is_exactly_zero(extreme, dtype):
    known = KNOWN[:, None, None]
    logits = jnp.where(known, LOGITS, LOGITS + extreme).astype(dtype)
    masks = jnp.where(known, MASKS, jnp.nan)
    gradient = jax.jit(jax.grad(lambda logits: dice_loss(logits, masks, known=KNOWN)))(logits)
    assert bool(jnp.where(known, gradient != 0, gradient == 0).all())


@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (8, 80, 80, 10), (2, 33, 17, 1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_with_all_tasks_known_nothing_changes_bit_for_bit(shape, dtype):
    """Against `known=None` and against the formula without unknown tasks, under jit."""
    rng = np.random.default_rng(2)
    logits = jnp.asarray(3 * rng.standard_normal(shape), dtype)
    masks = jnp.asarray(rng.random(shape) < 0.3, jnp.float32)

    def plain(logits, masks):
        probabilities = jax.nn.sigmoid(logits.astype(jnp.float32))
        sums = [x.sum((0, 1, 2)) for x in (probabilities * masks, probabilities, masks)]
        return 1 - jnp.mean((2 * sums[0] + 1) / (sums[1] + sums[2] + 1))

    known = jnp.ones((shape[0], shape[-1]), bool)
    results = [
        jax.jit(jax.value_and_grad(loss))(logits, masks, *extra)
        for loss, extra in (
            (plain, ()),
            (dice_loss, ()),
            (lambda logits, masks, known: dice_loss(logits, masks, known=known), (known,)),
        )
    ]
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], other)


def test_bce_by_hand_and_ignored_labels():
    logits, targets = LOGITS[:, 0, 0], MASKS[:, 0, 0]
    weights = jnp.array([[1, 0, 1]] * 4, jnp.float32)
    probability = 1 / (1 + np.exp(-logits))
    each = -(targets * np.log(probability) + (1 - targets) * np.log(1 - probability))
    np.testing.assert_allclose(bce_loss(logits, targets, weights), each[:, [0, 2]].mean(), rtol=1e-5)
    changed = bce_loss(logits + jnp.array([[0, 9, 0]], jnp.float32), targets, weights)
    np.testing.assert_allclose(changed, bce_loss(logits, targets, weights), rtol=1e-6)
    assert float(bce_loss(logits, targets, 0 * weights)) == 0


@pytest.mark.parametrize("name", ["dice", "dice with unknown tasks", "bce"])
def test_a_split_batch_has_the_loss_and_gradient_of_the_whole(name):
    """The parts differ: masks, weights and known tasks are uneven over the two devices."""
    masks = MASKS.at[:2].set(0)
    weights = jnp.ones((4, 3)).at[:2, 1:].set(0)

    def loss(scale, logits, masks, weights, axis_name=None):
        if name == "bce":
            return bce_loss(scale * logits[:, 0, 0], masks[:, 0, 0], weights, axis_name)
        return dice_loss(scale * logits, masks, axis_name, known=weights if "unknown" in name else None)

    def split(scale, *batch):
        return jax.value_and_grad(lambda s: jax.lax.pmean(loss(s, *batch, DATA_AXIS), DATA_AXIS))(scale)

    one, part = jnp.ones(()), P(DATA_AXIS)
    sharded = jax.shard_map(split, mesh=data_mesh(), in_specs=(P(), part, part, part), out_specs=P())
    value, gradient = jax.jit(sharded)(one, LOGITS, masks, weights)
    expected, expected_gradient = jax.jit(jax.value_and_grad(loss))(one, LOGITS, masks, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5)
