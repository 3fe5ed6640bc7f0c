"""The normalisation of a network's inputs: its mean and standard deviation travel with the weights."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


class Normalisation(NamedTuple):
    """Mean and standard deviation per channel, of intensities in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


#: For encoders trained on CheXpert (one value for all three channels).
CHEXPERT = Normalisation((0.5020,) * 3, (0.085585,) * 3)
#: For encoders from ImageNet, and the published choice for all others.
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalise(
    images: UInt8[Array, "B S S"] | Float[Array, "B S S"], normalisation: Normalisation
) -> Float[Array, "B S S c"]:
    """Normalise grey intensities in [0, 255], to as many float32 channels as `normalisation` has (three, or one)."""
    scaled = images.astype(jnp.float32)[..., None] / 255
    return (scaled - jnp.asarray(normalisation.mean)) / jnp.asarray(normalisation.std)


def grey_normalisation(normalisation: Normalisation) -> Normalisation:
    """The nearest normalisation of one channel: the means over channels, for weights whose stem takes one."""
    mean, std = (float(np.mean(values)) for values in normalisation)
    return Normalisation((mean,), (std,))
