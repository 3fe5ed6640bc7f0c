from functools import partial

import jax
import jax.numpy as jnp
import pytest

from chexseg_jax import models
from chexseg_jax.errors import InputError


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
    with pytest.raises(InputError, match=r"'resnet34'.*resnet18, resnet50, densenet121"):
        models.create("resnet34", num_classes=14)


def training_loss(module, variables, params, x):
    (logits, _), updated = module.apply(
        variables | {"params": params}, x, train=True, mutable=["batch_stats"]
    )
    return (logits**2).mean(), updated


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_remat_keeps_less_for_the_backward_pass(name):
    def kept(remat: bool) -> int:
        module = models.create(name, num_classes=3, remat=remat)
        x = jnp.zeros((8, 64, 64, 3))

        def pull_back(variables):
            loss = partial(training_loss, module, variables, x=x)
            return jax.vjp(loss, variables["params"], has_aux=True)[1]

        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pull_back, variables))) - parameters

    assert kept(True) < 0.75 * kept(False)
