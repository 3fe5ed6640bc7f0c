"""The normalisation of a network's inputs: its mean and standard deviation travel with the weights."""

from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from chexseg_jax.errors import InputError


class Normalisation(NamedTuple):
    """Mean and standard deviation per channel, of intensities in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


#: For encoders trained on CheXpert (one value for all three channels).
CHEXPERT = Normalisation((0.5020,) * 3, (0.085585,) * 3)
#: For encoders from ImageNet, and the published choice for all others.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: torchxrayvision's: one channel of values in [-1024, 1024].
XRV = Normalisation((0.5,), (1 / 2048,))
NAMED = {"imagenet": IMAGENET, "chexpert": CHEXPERT, "xrv": XRV}


def normalise(
    images: UInt8[Array, "B S S"] | Float[Array, "B S S"], normalisation: Normalisation
) -> Float[Array, "B S S c"]:
    """Normalise grey intensities in [0, 255], to as many float32 channels as `normalisation` has (three, or one)."""
    scaled = images.astype(jnp.float32)[..., None] / 255
    return (scaled - jnp.asarray(normalisation.mean)) / jnp.asarray(normalisation.std)


def normalisation_of(values: Mapping[str, Any]) -> Normalisation:
    """The normalisation that JSON or a user gives as {"mean": [...], "std": [...]}.

    Raises:
      InputError: for other than one or three means in [0, 1] and as many standard deviations above 0.
    """
    try:
        mean, std = (tuple(map(float, values[key])) for key in Normalisation._fields)
    except (KeyError, TypeError, ValueError):
        mean = std = ()
    if (len(mean), len(std)) in ((1, 1), (3, 3)) and all(
        0 <= m <= 1 and 0 < s < inf for m, s in zip(mean, std, strict=True)
    ):
        return Normalisation(mean, std)
    raise InputError(
        f"normalisation {dict(values)} must be one mean or three in [0, 1] and as many standard deviations above 0, of "
        "intensities in [0, 1]"
    )


def parse_normalisation(text: str) -> Normalisation:
    """A normalisation by its name or as MEAN,STD: of grey intensities, or three means and three standard deviations.

    Raises:
      InputError: for other text.
    """
    if text in NAMED:
        return NAMED[text]
    numbers = text.split(",")
    half = len(numbers) // 2
    try:
        return normalisation_of({"mean": numbers[:half], "std": numbers[half:]})
    except InputError:
        raise InputError(
            f"normalisation {text!r} must be one of {', '.join(NAMED)} or MEAN,STD of intensities in [0, 1], such as "
            "0.5,0.25 (or three means and three standard deviations)"
        ) from None


def with_channels(normalisation: Normalisation, channels: int) -> Normalisation:
    """The nearest normalisation of as many channels: a grey one repeated, or the means over three channels."""
    if channels == 1:
        mean, std = (float(np.mean(values)) for values in normalisation)
        return Normalisation((mean,), (std,))
    return Normalisation(*(values * (channels // len(values)) for values in normalisation))
