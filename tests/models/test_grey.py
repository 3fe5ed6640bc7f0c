import numpy as np
import pytest
from golden.peers import distance, jit, peer

from chexseg_jax.errors import InputError
from chexseg_jax.models.grey import grey_stem
from chexseg_jax.models.normalisation import CHEXPERT, IMAGENET, normalise

RADIOGRAPHS = np.random.default_rng(0).integers(0, 256, (2, 96, 96)).astype(np.uint8)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "deeplabv3plus_resnet18"])
def test_one_channel_is_the_same_function_where_the_channels_have_one_normalisation(name):
    apply = jit(lambda v, x: peer(name).module.apply(v, x)[0])
    variables, by = grey_stem(peer(name).variables, CHEXPERT)
    x = normalise(RADIOGRAPHS, by)
    assert x.shape == (2, 96, 96, 1)
    assert distance(apply(variables, x), apply(peer(name).variables, normalise(RADIOGRAPHS, CHEXPERT))) < 1e-5


def test_one_channel_differs_at_the_border_only_where_the_means_differ():
    features = jit(lambda v, x: peer("resnet18").module.apply(v, x, method="features")["stem"])
    variables, by = grey_stem(peer("resnet18").variables, IMAGENET)
    ours = features(variables, normalise(RADIOGRAPHS, by))
    theirs = features(peer("resnet18").variables, normalise(RADIOGRAPHS, IMAGENET))
    inside = (slice(None), slice(2, -2), slice(2, -2))
    assert distance(ours[inside], theirs[inside]) < 1e-5
    assert 1e-5 < distance(ours, theirs) < 0.05


def test_a_stem_is_summed_once():
    variables, by = grey_stem(peer("resnet18").variables, CHEXPERT)
    with pytest.raises(InputError, match="has 1 input channels"):
        grey_stem(variables, by)
