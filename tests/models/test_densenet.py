import jax
import numpy as np
import pytest
from golden.peers import images, peer

from chexseg_jax.errors import InputError


def features(method="features", **options):
    module = peer("densenet121").module.clone(**options)
    x = images("x", 64, 1)
    return jax.eval_shape(lambda v: module.apply(v, x, method=method), peer("densenet121").variables)


def test_blocks_and_strides():
    assert {name: x.shape[1:] for name, x in features().items()} == {
        "relu0": (32, 32, 64),
        "denseblock1": (16, 16, 256),
        "denseblock2": (8, 8, 512),
        "denseblock3": (4, 4, 1024),
        "denseblock4": (2, 2, 1024),
        "features": (2, 2, 1024),
    }


@pytest.mark.parametrize("output_stride", [32, 16])
def test_stages_are_the_last_maps_at_each_stride(output_stride):
    channels = {2: 64, 4: 256, 8: 512, 16: 1024, 32: 1024}
    assert {stride: x.shape for stride, x in features("stages", output_stride=output_stride).items()} == {
        stride: (1, 64 // stride, 64 // stride, channels[stride])
        for stride in channels
        if stride <= output_stride
    }


def test_output_stride_16_keeps_the_resolution():
    assert features(output_stride=16)["features"].shape == (1, 4, 4, 1024)
    with pytest.raises(InputError, match="32 or 16"):
        features(output_stride=8)


def test_classify_applies_the_relu_and_the_head():
    module, variables = peer("densenet121").module, peer("densenet121").variables
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 1024))
    head = variables["params"]["classifier"]
    expected = np.maximum(x, 0).mean((1, 2)) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(module.apply(variables, x, method="classify"), expected, atol=1e-4)
