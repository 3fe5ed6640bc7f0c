import jax
import jax.numpy as jnp
import numpy as np
from golden.peers import jit

from chexseg_jax import models
from chexseg_jax.models.deeplab import DeepLabV3Plus


def test_dropout_is_drawn_in_training_only():
    module = DeepLabV3Plus(aspp_dropout=0.5)
    draw = np.random.default_rng(0)
    maps = {
        stride: jnp.asarray(draw.standard_normal((2, 32 // stride, 32 // stride, 4))) for stride in (4, 16)
    }
    variables = jit(module.init)(jax.random.key(0), maps)

    @jit
    def train(key):
        rngs = {"dropout": jax.random.key(key)}
        return module.apply(variables, maps, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    assert train(0).shape == (2, 8, 8, 256)
    np.testing.assert_array_equal(train(0), train(0))
    assert not np.allclose(train(0), train(1))
    jax.eval_shape(module.apply, variables, maps)  # needs no key


def test_the_dropout_is_the_peers_by_default():
    assert models.create("deeplabv3plus_resnet18", num_classes=1).decoder.aspp_dropout == 0.5
