import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import distance, irn
from jax.sharding import PartitionSpec as P

from chexseg_jax.irnet.losses import irnet_loss
from chexseg_jax.irnet.paths import affinities
from chexseg_jax.irnet.seeds import BACKGROUND, FOREGROUND, IGNORE
from chexseg_jax.models import cpu
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh


def case():
    return (
        jnp.asarray(irn("loss_edge_logits")[:, 0]),
        jnp.asarray(irn("loss_displacement").transpose(0, 2, 3, 1)),
        jnp.asarray(irn("loss_labels")[..., None]),
    )


def test_affinities_match_the_published_code():
    edge, _, _ = case()
    ours = affinities(jax.nn.sigmoid(edge), radius=5).swapaxes(0, 1)
    assert distance(ours.reshape(2, 34, -1), irn("loss_affinity")) < 1e-6


def test_loss_terms_match_the_published_code():
    total, terms = irnet_loss(*case(), radius=5)
    np.testing.assert_allclose([*terms.values(), total], irn("loss_terms"), rtol=1e-5)


def test_loss_terms_of_several_pathologies_are_the_published_ones_summed():
    """The published code normalises each pathology by its own pairs, then sums (pooling would give them once)."""
    edge, field, labels = case()
    three = jnp.concatenate([labels, jnp.full_like(labels, IGNORE), labels], -1)
    total, terms = irnet_loss(edge, field, three, radius=5)
    np.testing.assert_allclose([*terms.values(), total], 2 * irn("loss_terms"), rtol=1e-5)


def test_a_small_finding_pulls_as_hard_beside_a_large_one_as_alone():
    edge, field, large = case()
    small = jnp.full_like(large, IGNORE).at[0, 3:6, 3:6].set(BACKGROUND).at[0, 4, 4].set(FOREGROUND)

    def gradient(labels):
        return jax.grad(lambda e: irnet_loss(e, field, labels, radius=5)[0])(edge)

    both = gradient(jnp.concatenate([large, small], -1))
    np.testing.assert_allclose(both, gradient(large) + gradient(small), atol=1e-7)


def test_ignored_seeds_cost_nothing():
    edge, field, labels = case()
    total, _ = irnet_loss(edge, field, jnp.full_like(labels, IGNORE), radius=5)
    assert float(total) == 0


def test_a_field_that_points_to_the_centroid_has_no_displacement_loss():
    side, centre = 14, np.array([6.0, 8.0])
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1)
    edge, labels = jnp.zeros((1, side, side)), jnp.full((1, side, side, 1), FOREGROUND, jnp.uint8)
    _, terms = irnet_loss(edge, jnp.asarray(centre - grid)[None], labels, radius=5)
    assert float(terms["displacement_foreground"]) < 1e-6
    _, terms = irnet_loss(edge, jnp.asarray(grid - centre)[None], labels, radius=5)
    assert float(terms["displacement_foreground"]) > 1  # the sign of equation (3) as printed


def test_a_correct_boundary_costs_less_than_a_wrong_one():
    labels = np.full((1, 12, 16, 1), BACKGROUND, np.uint8)
    labels[:, :, 8:] = FOREGROUND
    costs = []
    for column in (8, 4):
        edge = np.full((1, 12, 16), -6.0, np.float32)
        edge[:, :, column - 1 : column + 1] = 6
        arguments = map(jnp.asarray, (edge, np.zeros((1, 12, 16, 2)), labels))
        costs.append(float(irnet_loss(*arguments, radius=4)[0]))
    assert costs[0] < costs[1]


def test_the_mean_is_over_all_devices():
    edge, field, labels = case()
    labels = labels.at[1, :12].set(IGNORE)  # unequal numbers of pairs
    alone, _ = irnet_loss(edge, field, labels, radius=5)
    shared = jax.shard_map(
        lambda *x: irnet_loss(*x, radius=5, axis_name=DATA_AXIS)[0],
        mesh=data_mesh(),
        in_specs=P(DATA_AXIS),
        out_specs=P(),
    )
    assert float(jax.jit(shared)(edge, field, labels)) == pytest.approx(float(alone), rel=1e-6)


def test_gradients_are_finite_at_saturated_boundaries():
    edge, field, labels = case()
    gradients = jax.grad(lambda e, f: irnet_loss(e, f, labels, radius=5)[0], (0, 1))(40 * edge, field)
    assert all(np.isfinite(g).all() for g in gradients)


def test_the_loss_and_its_gradients_are_the_same_without_the_loops_of_a_cpu():
    edge, field, labels = case()

    def results():
        return jax.jit(jax.value_and_grad(lambda e, f: irnet_loss(e, f, labels, radius=5)[0], (0, 1)))(
            edge, field
        )

    def loops():  # in the lowered program: over directions and, on a CPU, over path pixels
        return str(jax.make_jaxpr(lambda e: irnet_loss(e, field, labels, radius=5)[0])(edge)).count("scan[")

    on_cpu, loops_on_cpu = results(), loops()
    with cpu.override(False):
        jax.tree.map(np.testing.assert_array_equal, results(), on_cpu)
        assert (loops(), loops_on_cpu) == (1, 2)
