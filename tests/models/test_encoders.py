import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import peer

from chexseg_jax import models
from chexseg_jax.errors import InputError
from chexseg_jax.models.encoders import input_channels, with_encoder


def zeros(name, num_classes=10):
    module = models.create(name, num_classes=num_classes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_encoder_of_a_classifier_drops_in(name):
    empty, classifier = zeros(f"deeplabv3plus_{name}"), peer(name).variables
    head = peer(name).module.head
    filled = with_encoder(empty, classifier, head=head)
    assert jax.tree.structure(filled) == jax.tree.structure(empty)
    for collection in ("params", "batch_stats"):
        encoder = filled[collection]["encoder"]
        assert encoder.keys() == classifier[collection].keys() - {head}
        jax.tree.map(np.testing.assert_array_equal, encoder, {k: classifier[collection][k] for k in encoder})
        assert not any(leaf.any() for leaf in jax.tree.leaves(filled[collection]["decoder"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(empty["params"]["encoder"]))


def test_the_trunk_of_an_irnet_is_an_encoder_too():
    filled = with_encoder(zeros("irnet", 0), peer("resnet50").variables, head="fc", part="resnet50")
    np.testing.assert_array_equal(
        filled["params"]["resnet50"]["conv1"]["kernel"],
        peer("resnet50").variables["params"]["conv1"]["kernel"],
    )


def test_another_encoder_is_refused():
    with pytest.raises(InputError, match="layer1_0/bn3/bias is left over"):
        with_encoder(zeros("deeplabv3plus_resnet18"), peer("resnet50").variables, head="fc")
    with pytest.raises(InputError, match=r"layer1_0/conv1/kernel has shape|layer1_0/bn3/bias is missing"):
        with_encoder(zeros("deeplabv3plus_resnet50"), peer("resnet18").variables, head="fc")


def test_statistics_are_needed_where_the_encoder_has_them_only():
    whole = {"params": {"encoder": {"a": np.zeros(1)}}, "batch_stats": {"decoder": {"mean": np.zeros(1)}}}
    classifier = {"params": {"a": np.ones(1), "head": {"b": np.ones(2)}}}
    filled = with_encoder(whole, classifier, head="head")
    assert filled["params"]["encoder"]["a"] == 1
    assert filled["batch_stats"] == whole["batch_stats"]
    with pytest.raises(InputError, match="batch_stats: c/mean is left over"):
        with_encoder(whole, classifier | {"batch_stats": {"c": {"mean": np.ones(1)}}}, head="head")


@pytest.mark.parametrize("name", ["densenet121", "deeplabv3plus_resnet18", "irnet"])
def test_input_channels_are_those_of_the_stem(name):
    module = models.create(name, num_classes=0 if name == "irnet" else 2)
    for channels in (1, 3):
        images = jnp.zeros((1, 32, 32, channels))
        assert input_channels(module, jax.eval_shape(module.init, jax.random.key(0), images)) == channels
