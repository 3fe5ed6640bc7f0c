from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from chexseg_jax import models
from chexseg_jax.errors import InputError
from chexseg_jax.models.densenet import DenseBlock
from chexseg_jax.models.layers import Kit
from chexseg_jax.models.resnet import ResNet


# torchvision's and segmentation-models-pytorch's counts for 14 and 10 classes.
@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        ("resnet18", 14, 11_183_694),
        ("resnet50", 14, 23_536_718),
        ("densenet121", 14, 6_968_206),
        ("deeplabv3plus_resnet18", 10, 12_331_610),
        ("deeplabv3plus_resnet50", 10, 26_679_898),
    ],
)
def test_parameter_counts(name, num_classes, parameters):
    module = models.create(name, num_classes=num_classes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == parameters
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match=r"'resnet34'.*resnet18, resnet50, densenet121.*deeplabv3plus_dense"):
        models.create("resnet34", num_classes=14)


@pytest.mark.parametrize(
    ("name", "option", "known"),
    [
        ("densenet121", "stride_on", "dilate, dtype, output_stride, remat"),
        ("deeplabv3plus_resnet18", "output_stride", "aspp_dropout, .*mirror, remat, stride_on"),
        ("irnet", "mirror", "dtype, stride_on"),
    ],
)
def test_an_unknown_option_is_named_with_the_known(name, option, known):
    with pytest.raises(InputError, match=f"{name} has no option '{option}'; its options are {known}$"):
        models.create(name, num_classes=0, **{option: 1})


@pytest.mark.parametrize(
    "make", [partial(ResNet, 3, (1, 1, 1, 1), False), lambda remat: Dense(Kit(remat=remat))]
)
def test_remat_keeps_less_for_the_backward_pass(make):
    def kept(remat: bool) -> int:
        module, x = make(remat=remat), jnp.zeros((8, 32, 32, 3))
        variables = jax.eval_shape(module.init, jax.random.key(0), x)

        def pull_back(variables):
            def loss(params):
                y, updated = module.apply(
                    variables | {"params": params}, x, train=True, mutable=["batch_stats"]
                )
                return (y[0] ** 2).mean(), updated

            return jax.vjp(loss, variables["params"], has_aux=True)[1]

        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pull_back, variables))) - parameters

    assert kept(True) < 0.75 * kept(False)


class Dense(nn.Module):
    """One dense block."""

    kit: Kit

    @nn.compact
    def __call__(self, x, train=False):
        return DenseBlock(4, 1, self.kit)(x, train)
