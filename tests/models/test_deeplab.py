import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import images, jit, peer

from chexseg_jax import models
from chexseg_jax.errors import InputError
from chexseg_jax.models.deeplab import with_encoder


def zeros(name):
    module = models.create(name, num_classes=10)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


@pytest.mark.parametrize("depth", ["resnet18", "resnet50"])
def test_encoder_of_a_classifier_drops_in(depth):
    empty, classifier = zeros(f"deeplabv3plus_{depth}"), peer(depth).variables
    filled = with_encoder(empty, classifier)
    assert jax.tree.structure(filled) == jax.tree.structure(empty)
    for collection in ("params", "batch_stats"):
        encoder = filled[collection]["encoder"]
        assert encoder.keys() == classifier[collection].keys() - {"fc"}
        jax.tree.map(np.testing.assert_array_equal, encoder, {k: classifier[collection][k] for k in encoder})
        assert not any(leaf.any() for leaf in jax.tree.leaves(filled[collection]["decoder"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(empty["params"]["encoder"]))


def test_another_encoder_is_refused():
    with pytest.raises(InputError, match="layer1_0/bn3/bias is left over"):
        with_encoder(zeros("deeplabv3plus_resnet18"), peer("resnet50").variables)
    with pytest.raises(InputError, match=r"layer1_0/conv1/kernel has shape|layer1_0/bn3/bias is missing"):
        with_encoder(zeros("deeplabv3plus_resnet50"), peer("resnet18").variables)


def test_any_image_size():
    module, variables = peer("deeplabv3plus_resnet18").module, peer("deeplabv3plus_resnet18").variables
    logits, _ = jax.eval_shape(module.apply, variables, images("x", 96, 1)[:, :70, :53])
    assert logits.shape == (1, 70, 53, 10)


def test_a_mirrored_network_treats_both_sides_alike():
    plain, variables = peer("deeplabv3plus_resnet18").module, peer("deeplabv3plus_resnet18").variables
    x = images("x", 96, 1)[:, :64, :64]
    straight, mirrored = (jit(plain.clone(mirror=on).apply)(variables, x)[0] for on in (False, True))
    other = jit(plain.apply)(variables, x[:, :, ::-1])[0][:, :, ::-1]
    np.testing.assert_allclose(mirrored, (straight + other) / 2, atol=1e-5)
    assert not np.allclose(mirrored, straight, atol=1e-3)


def test_dropout_is_drawn_in_training_only():
    module = peer("deeplabv3plus_resnet18").module.clone(aspp_dropout=0.5)
    variables, x = peer("deeplabv3plus_resnet18").variables, images("x", 96, 1)[:, :64, :64]

    @jit
    def train(key):
        (logits, _), _ = module.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(key)}
        )
        return logits

    np.testing.assert_array_equal(train(0), train(0))
    assert not np.allclose(train(0), train(1))
    jax.eval_shape(module.apply, variables, x)  # needs no key
