"""The networks by name. An encoder or decoder is one line of a dict; `chexseg_jax.models` has their contract."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from chexseg_jax.errors import InputError
from chexseg_jax.models.deeplab import DeepLabV3Plus
from chexseg_jax.models.densenet import DenseNet121
from chexseg_jax.models.irnet import IRNet
from chexseg_jax.models.resnet import ResNet18, ResNet50
from chexseg_jax.models.segmenter import Segmenter

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "densenet121": DenseNet121,
}
DECODERS: dict[str, Callable[..., nn.Module]] = {"deeplabv3plus": DeepLabV3Plus}


def create(name: str, *, num_classes: int, axis_name: str | None = None, **options: Any) -> nn.Module:
    """The network called `name`, with `num_classes` outputs.

    Args:
      name: an encoder (a classifier: "resnet18"), "irnet", or a decoder on an encoder: "deeplabv3plus_resnet18".
      num_classes: logits of a classifier (0: features only), masks of a segmentation, 0 for irnet.
      axis_name: the mapped axis that a batch is split over, for networks that normalise over the batch.
      **options: fields of the network's class, or of the classes of its encoder, its decoder and `Segmenter`.

    Raises:
      InputError: for an unknown name or option.
    """
    pairs = {f"{decoder}_{encoder}": (decoder, encoder) for decoder in DECODERS for encoder in ENCODERS}
    networks = ENCODERS | {"irnet": IRNet}
    settings = {"num_classes": num_classes, "axis_name": axis_name} | options
    if name in networks:
        _check_options(name, options, networks[name])
        return _make(networks[name], settings)
    if name not in pairs:
        raise InputError(f"unknown model {name!r}; must be one of {', '.join([*networks, *pairs])}")
    make_decoder, make_encoder = DECODERS[pairs[name][0]], ENCODERS[pairs[name][1]]
    _check_options(name, options, make_encoder, make_decoder, Segmenter)
    decoder = _make(make_decoder, settings)
    chosen = {"num_classes": 0, "output_stride": max(decoder.strides)}
    encoder = _make(make_encoder, settings | chosen)
    return _make(Segmenter, settings | {"encoder": encoder, "decoder": decoder})


def _make(factory: Callable[..., nn.Module], settings: Mapping[str, Any]) -> nn.Module:
    """A module with those of the settings that it has."""
    return factory(**{key: value for key, value in settings.items() if key in _fields(factory)})


def _fields(factory: Callable[..., nn.Module]) -> set[str]:
    fixed = getattr(factory, "keywords", {})  # of a partial
    return inspect.signature(factory).parameters.keys() - fixed.keys() - {"parent", "name"}


def _check_options(name: str, options: Mapping[str, Any], *factories: Callable[..., nn.Module]) -> None:
    known = set().union(*map(_fields, factories)) - {"num_classes", "axis_name"}
    if Segmenter in factories:  # which chooses these itself
        known -= {"encoder", "decoder", "output_stride"}
    for option in options:
        if option not in known:
            raise InputError(f"{name} has no option {option!r}; its options are {', '.join(sorted(known))}")
