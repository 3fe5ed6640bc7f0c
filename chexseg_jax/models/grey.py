"""A stem of one channel: radiographs are grey, and pretrained networks take RGB."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from chexseg_jax.errors import InputError
from chexseg_jax.models.normalisation import Normalisation


def grey_stem(variables: Mapping[str, Any], by: Normalisation) -> tuple[dict[str, Any], Normalisation]:
    """The same function of a grey image by one input channel: the stem's kernel summed over RGB.

    With `by` mean m_c and std s_c per channel, W * x over three equal channels is sum_c W_c s / s_c over the one
    normalised by m = mean(m_c) and s = mean(s_c), plus sum_c W_c (m - m_c) / s_c. That constant per output channel
    moves into the running mean of the normalisation that follows. At the image's border it is not quite constant,
    since padding is zero after normalisation: the outermost pixels differ slightly where the three means differ.

    Args:
      variables: of any of our networks, with a stem of three channels.
      by: what its inputs are normalised by.

    Returns:
      The variables, and the one-channel normalisation that goes with them.

    Raises:
      InputError: where the stem has not three channels.
    """
    flat = flatten_dict(variables)
    stem = _stem(flat)
    kernel = np.asarray(flat[stem], np.float64)
    if kernel.shape[2] != 3:
        raise InputError(f"the stem has {kernel.shape[2]} input channels; only three can be summed into one")
    mean, std = np.asarray(by.mean), np.asarray(by.std)
    grey = grey_normalisation(by)
    # conv1 and bn1 in a ResNet, conv0 and norm0 in a DenseNet.
    norm = {"conv1": "bn1", "conv0": "norm0"}[stem[-2]]
    running = ("batch_stats", *stem[1:-2], norm, "mean")
    constant = np.einsum("ijco,c->o", kernel, (grey.mean[0] - mean) / std)
    summed = np.einsum("ijco,c->ijo", kernel, grey.std[0] / std)[:, :, None]
    flat[stem] = summed.astype(np.float32)
    flat[running] = (np.asarray(flat[running], np.float64) - constant).astype(np.float32)
    return unflatten_dict(flat), grey


def grey_normalisation(by: Normalisation) -> Normalisation:
    """The one-channel normalisation nearest to `by`: the means of its means and of its stds."""
    return Normalisation((float(np.mean(by.mean)),), (float(np.mean(by.std)),))


def input_channels(variables: Mapping[str, Any]) -> int:
    """Channels of the images that any of our networks takes, by its stem."""
    flat = flatten_dict(variables)
    return np.shape(flat[_stem(flat)])[2]


def _stem(flat: Mapping[tuple[str, ...], Any]) -> tuple[str, ...]:
    return next(path for path, value in flat.items() if np.shape(value)[:2] == (7, 7))
