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
