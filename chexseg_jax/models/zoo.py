"""The networks by name."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from chexseg_jax.errors import InputError
from chexseg_jax.models.deeplab import DeepLabV3PlusResNet18, DeepLabV3PlusResNet50
from chexseg_jax.models.densenet import DenseNet121
from chexseg_jax.models.irnet import IRNet
from chexseg_jax.models.resnet import ResNet18, ResNet50

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "densenet121": DenseNet121,
    "deeplabv3plus_resnet18": DeepLabV3PlusResNet18,
    "deeplabv3plus_resnet50": DeepLabV3PlusResNet50,
    "irnet": IRNet,
}


def create(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """The network called `name`, with `num_classes` outputs.

    Args:
      name: one of resnet18, resnet50, densenet121, deeplabv3plus_resnet18, deeplabv3plus_resnet50,
        irnet.
      num_classes: logits of a classifier (0: features only), masks of a segmentation.
      **options: the network's own, see its class: `dtype`, `axis_name`, `cpu_kernels` for all of them.

    Raises:
      InputError: for a name that is not known.
    """
    if name not in _MODELS:
        raise InputError(f"unknown model {name!r}; the known ones are: {', '.join(_MODELS)}")
    return _MODELS[name](num_classes=num_classes, **options)
