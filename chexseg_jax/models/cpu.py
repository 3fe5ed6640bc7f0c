"""Everything that is done for speed on a CPU alone.

XLA on CPU runs some convolutions, and most of their kernel gradients, far below the machine's speed. It runs matrix
products well. The lowerings below compute the same as the convolution op by products and shifted multiply-adds;
docs/profiling.md has the figures. A GPU's convolution op needs no help but `gpu`'s.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from chexseg_jax.models.gpu import by_phase

#: Pixels of a map from which `dense` is faster than `gathered`.
WORTHWHILE = 400

_override = jax.make_user_context(None)


def override(value: bool | None) -> AbstractContextManager[None]:
    """`with override(value):` makes `on_cpu` return `value` in this thread; None asks the backend again.

    The value is part of the key of JAX's caches, so that no program traced for one value serves the other.
    """
    return _override(value)


def on_cpu() -> bool:
    """Whether to compute in the CPU's way: on a CPU, or as `override` says. Asked while a program is traced."""
    return jax.default_backend() == "cpu" if _override.value is None else _override.value


def map_images(function: Callable[[Any], Any], images: Any) -> Any:
    """`function(images)`, one image at a time on a CPU, whose caches then hold all maps of the image.

    Args:
      function: maps a batch of images to arrays with a leading batch axis. Images must not depend on each other.
      images: the batch: an array, or a tree of arrays, with a leading batch axis.
    """
    if not on_cpu():
        return function(images)

    def single(image: Any) -> Any:
        batched = function(jax.tree.map(lambda x: x[None], image))
        return jax.tree.map(lambda y: y[0], batched)

    return lax.map(single, images)


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "s s _ k"],
    stride: int = 1,
    dilation: int = 1,
    *,
    depthwise: bool = False,
) -> Float[Array, "b _ _ k"]:
    """Convolution, NHWC, with torch's padding: `dilation * (s - 1) / 2` zeros on every side, s odd.

    Args:
      x: the map.
      kernel: [s, s, c, k], or [s, s, 1, c] with `depthwise`.
      stride: of the output grid; the output side is `ceil(side / stride)`.
      dilation: distance between taps, in pixels.
      depthwise: one kernel per channel.
    """
    if on_cpu():
        if depthwise and stride == 1:
            return shifted_depthwise(x, kernel[:, :, 0], dilation)
        if not depthwise and kernel.shape[0] == 1:
            return pointwise(x[:, ::stride, ::stride], kernel[0, 0])
        if not depthwise and x.shape[1] * x.shape[2] >= WORTHWHILE:
            return dense(x, kernel, stride, dilation)
        if not depthwise and kernel.shape[-1] >= kernel.shape[-2]:  # else the op is as fast, as in DenseNet
            return gathered(x, kernel, stride, dilation)
    elif not depthwise and kernel.shape[0] > 1 and stride == 1 < dilation:
        return by_phase(lambda x: convolution_op(x, kernel), x, dilation)
    return convolution_op(x, kernel, stride, dilation, depthwise=depthwise)


def convolution_op(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "s s _ k"],
    stride: int = 1,
    dilation: int = 1,
    *,
    depthwise: bool = False,
) -> Float[Array, "b _ _ k"]:
    """XLA's convolution op."""
    reach = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(reach, reach)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=kernel.shape[-1] if depthwise else 1,
    )


def gathered(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c k"], stride: int = 1, dilation: int = 1
) -> Float[Array, "b _ _ k"]:
    """`convolution_op` as one matrix product with the neighbourhoods of all pixels, s^2 times the map's memory.

    With its gradients it takes from .4 to .9 of the op's time on maps of 3x3 to 16x16 pixels, and a thirtieth on 2x2.
    """
    size, reach = kernel.shape[0], dilation * (kernel.shape[0] // 2)
    batch, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    taps = [
        padded[:, dilation * i :, dilation * j :][:, :height:stride, :width:stride]
        for i, j in np.ndindex(size, size)
    ]
    neighbourhoods = jnp.concatenate(taps, axis=-1)
    shape = batch, *neighbourhoods.shape[1:3], -1
    return (
        neighbourhoods.reshape(-1, size * size * channels) @ kernel.reshape(size * size * channels, -1)
    ).reshape(shape)


def dense(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c k"], stride: int = 1, dilation: int = 1
) -> Float[Array, "b _ _ k"]:
    """`convolution_op` whose kernel gradient is one matrix product per image."""
    return _dense(x, _own(kernel, x), stride, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(x, kernel, stride, dilation):
    return convolution_op(x, kernel, stride, dilation)


def _dense_forward(x, kernel, stride, dilation):
    return convolution_op(x, kernel, stride, dilation), (x, kernel)


def _dense_backward(stride, dilation, saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: convolution_op(x, kernel, stride, dilation), x)(dy)
    return dx, _kernel_gradient(x, dy, kernel, stride, dilation)


_dense.defvjp(_dense_forward, _dense_backward)


def _kernel_gradient(x, dy, kernel, stride, dilation):
    """sum_p x[stride p + dilation t] dy[p] for every tap t."""
    size = kernel.shape[0]
    reach = dilation * (size // 2)
    # At stride 1 this equals sum_q x[q] dy[q - dilation t]. Copy the map of fewer channels once per tap.
    turned = stride == 1 and dy.shape[-1] <= x.shape[-1]
    copied, read = (dy, x) if turned else (x, dy)
    copied = jnp.pad(copied, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    _, height, width, rows = read.shape

    def add_image(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
        copied, read = image
        taps = [
            copied[dilation * i :: stride, dilation * j :: stride][:height, :width]
            for i, j in np.ndindex(size, size)
        ]
        patches = jnp.concatenate(taps, axis=-1).reshape(height * width, -1)
        product = jnp.matmul(
            read.reshape(height * width, rows).T, patches, preferred_element_type=total.dtype
        )
        return total + product, None

    # One image at a time: the patches of a whole batch, nine times the map, would not fit in the caches.
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    total = _own(jnp.zeros((rows, size * size * copied.shape[-1]), wide), x)
    total, _ = lax.scan(add_image, total, (copied, read))
    total = total.reshape(rows, size, size, -1)
    total = total[:, ::-1, ::-1].transpose(1, 2, 0, 3) if turned else total.transpose(1, 2, 3, 0)
    return total.astype(kernel.dtype)


def _own(weights: Float[Array, "*s"], x: Float[Array, "b h w c"]) -> Float[Array, "*s"]:
    """`weights` with the sharding type of `x`.

    Under `shard_map`, weights are replicated and maps vary by device, and a custom gradient needs both to be of one
    type. Adding a zero of the map's type makes the weights vary; the transpose of this step sums their gradients
    over devices.
    """
    return weights + jnp.zeros_like(x[0, 0, 0, 0])


def pointwise(x: Float[Array, "b h w c"], kernel: Float[Array, "c k"]) -> Float[Array, "b h w k"]:
    """A 1x1 convolution as one matrix product."""
    # Reshape explicitly for the kernel's gradient: XLA's CPU dot is fast on matrices only.
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def shifted_depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c"], dilation: int
) -> Float[Array, "b h w c"]:
    """A depthwise convolution at stride 1 as one shifted multiply-add per tap."""
    return _depthwise(x, _own(kernel, x), dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x, kernel, dilation):
    return sum(view * kernel[tap] for tap, view in _shifts(x, kernel.shape[0], dilation))


def _depthwise_forward(x, kernel, dilation):
    return _depthwise(x, kernel, dilation), (x, kernel)


def _depthwise_backward(dilation, saved, dy):
    x, kernel = saved

    def kernel_gradient(image: tuple[Array, Array]) -> Array:
        x, dy = image
        taps = {tap: (view * dy).sum((0, 1, 2)) for tap, view in _shifts(x[None], kernel.shape[0], dilation)}
        return jnp.stack([taps.get(tap, jnp.zeros_like(kernel[tap])) for tap in np.ndindex(kernel.shape[:2])])

    # One image at a time stays in the caches for all nine reductions; a whole batch takes 2 to 3 times as long.
    dkernel = lax.map(kernel_gradient, (x, dy)).sum(0).reshape(kernel.shape)
    return _depthwise(dy, kernel[::-1, ::-1], dilation), dkernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _shifts(x: Array, size: int, dilation: int) -> list[tuple[tuple[int, int], Array]]:
    """Each tap's view of the zero-padded map; taps that see nothing but padding are left out."""
    height, width = x.shape[1:3]
    reach = [dilation * (i - size // 2) for i in range(size)]
    # At rate 36 on a 20x20 map, only the centre tap is left.
    top = max(r for r in reach if r < height)
    left = max(r for r in reach if r < width)
    padded = jnp.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    return [
        ((i, j), padded[:, top + y : top + y + height, left + z : left + z + width])
        for i, y in enumerate(reach)
        for j, z in enumerate(reach)
        if abs(y) <= top and abs(z) <= left
    ]
