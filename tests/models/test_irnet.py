import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import distance, images, irn, jit, peer

from chexseg_jax import models
from chexseg_jax.errors import InputError


def outputs(variables, x, **options):
    _, out = jit(lambda v, x: peer("irnet").module.apply(v, x, **options))(variables, x)
    return out


def test_outputs_are_the_published_ones():
    # DESIGN says "x"; the numbers were made from "irn_x", and in training mode: the mean is not taken off.
    variables, x = peer("irnet").variables, images("irn_x", 96, 2)
    out = outputs(variables, x, train=True)
    assert out["edge"].shape == (2, 24, 24, 1)
    assert distance(out["edge"], irn("net_edge_logits").transpose(0, 2, 3, 1)) < 1e-4
    field = irn("net_displacement").transpose(0, 2, 3, 1)
    assert distance(out["displacement"], field) < 1e-4
    out = outputs(variables, x)
    assert distance(out["edge"], irn("net_edge_logits").transpose(0, 2, 3, 1)) < 1e-4
    mean = variables["batch_stats"]["fc_dp7_4"]["mean"]
    assert distance(out["displacement"], field - np.asarray(mean)) < 1e-4


def test_sides_that_the_strides_do_not_divide():
    out = outputs(peer("irnet").variables, np.zeros((1, 90, 75, 3), np.float32))
    assert out["edge"].shape == (1, 23, 19, 1)
    assert out["displacement"].shape == (1, 23, 19, 2)


def test_what_the_loss_reads_has_all_digits_under_bfloat16():
    module = models.create("irnet", num_classes=0, dtype="bfloat16")
    _, out = jit(module.apply)(peer("irnet").variables, images("irn_x", 64, 1))
    for name, values in out.items():
        assert values.dtype == jnp.float32
        rounded = values.astype(jnp.bfloat16).astype(jnp.float32)
        assert (values != rounded).mean() > 0.9, name


def test_no_gradient_reaches_the_trunk():
    variables, module = peer("irnet").variables, peer("irnet").module

    def score(params):
        _, out = module.apply({**variables, "params": params}, images("irn_x", 32, 1), train=True)
        return out["edge"].sum() + out["displacement"].sum()

    gradients = jit(jax.grad(score))(variables["params"])
    assert all(not x.any() for x in jax.tree.leaves(gradients.pop("resnet50")))
    assert all(x.any() for x in jax.tree.leaves(gradients["fc_edge5_0"]))


def test_classes_are_refused():
    with pytest.raises(InputError, match="irnet has no classes"):
        models.create("irnet", num_classes=10).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
