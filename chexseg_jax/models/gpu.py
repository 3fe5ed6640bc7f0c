"""Everything that is done for speed on a GPU alone."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float


def by_phase(
    function: Callable[[Float[Array, "n h w c"]], Float[Array, "n h w k"]],
    x: Float[Array, "b height width c"],
    dilation: int,
) -> Float[Array, "b height width k"]:
    """`function` at `dilation`: of each phase of the map, as if it were an image of its own.

    A phase is every `dilation`-th pixel in both directions, from one of the `dilation` squared starts. A convolution
    at stride 1 never mixes them. cuDNN has no fast kernel gradient for a dilated convolution: XLA makes it one whose
    window is as large as the map.

    Args:
      function: a convolution at stride 1, without dilation, that keeps the map's size and pads with zeros.
      x: the map.
      dilation: distance between taps, in pixels.
    """
    batch, height, width, _ = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = jnp.pad(x, ((0, 0), (0, dilation * rows - height), (0, dilation * columns - width), (0, 0)))
    x = x.reshape(batch, rows, dilation, columns, dilation, -1).transpose(0, 2, 4, 1, 3, 5)
    y = function(x.reshape(-1, rows, columns, x.shape[-1]))
    y = y.reshape(batch, dilation, dilation, rows, columns, -1).transpose(0, 3, 1, 4, 2, 5)
    return y.reshape(batch, dilation * rows, dilation * columns, -1)[:, :height, :width]
