"""Convolution, NHWC, with torch's padding: the op, and lowerings that are faster where XLA runs on a CPU.

XLA on CPU runs some convolutions, and most of their gradients by the kernel, far below the machine's speed. Dots it
runs well. The functions below compute what `convolution` does by dots and shifted multiply-adds, forward or backward;
docs/profiling.md has the figures. A GPU's convolution op needs no such help.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

#: Pixels of a map from which on `dense` is ahead. Below, the op's gradient is as fast and compiles sooner.
WORTHWHILE = 400


def convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "s s i k"],
    stride: int = 1,
    dilation: int = 1,
    *,
    depthwise: bool = False,
) -> Float[Array, "b i j k"]:
    """XLA's convolution op, with `dilation * (size - 1) / 2` zeros on every side."""
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


def dense(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c k"], stride: int = 1, dilation: int = 1
) -> Float[Array, "b i j k"]:
    """`convolution` whose gradient by the kernel is one matrix product an image."""
    return _dense(x, _own(kernel, x), stride, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(x, kernel, stride, dilation):
    return convolution(x, kernel, stride, dilation)


def _dense_forward(x, kernel, stride, dilation):
    return convolution(x, kernel, stride, dilation), (x, kernel)


def _dense_backward(stride, dilation, saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: convolution(x, kernel, stride, dilation), x)(dy)
    return dx, _kernel_gradient(x, dy, kernel, stride, dilation)


_dense.defvjp(_dense_forward, _dense_backward)


def _kernel_gradient(x, dy, kernel, stride, dilation):
    """sum_p x[stride p + dilation t] dy[p] for every tap t: pixels meet what lies under the taps around them."""
    size = kernel.shape[0]
    reach = dilation * (size // 2)
    # At stride 1 it is as well sum_q x[q] dy[q - dilation t]; what is copied once a tap is the map of fewer channels.
    turned = stride == 1 and dy.shape[-1] <= x.shape[-1]
    copied, read = (dy, x) if turned else (x, dy)
    copied = jnp.pad(copied, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    height, width, rows = *read.shape[1:3], read.shape[-1]

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

    # One image at a time: the patches of all would go through memory, nine times the map.
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    total = _own(jnp.zeros((rows, size * size * copied.shape[-1]), wide), x)
    total, _ = lax.scan(add_image, total, (copied, read))
    total = total.reshape(rows, size, size, -1)
    total = total[:, ::-1, ::-1].transpose(1, 2, 0, 3) if turned else total.transpose(1, 2, 3, 0)
    return total.astype(kernel.dtype)


def _own(weights: Float[Array, "*s"], x: Float[Array, "b h w c"]) -> Float[Array, "*s"]:
    """`weights` as this device's own, as `x` is.

    Under `shard_map` weights are replicated and maps are not, which a custom gradient must not see. Adding zeros of
    the map's type makes them each device's own; that step's transpose sums the devices' gradients.
    """
    return weights + jnp.zeros_like(x[0, 0, 0, 0])


def pointwise(x: Float[Array, "b h w c"], kernel: Float[Array, "c k"]) -> Float[Array, "b h w k"]:
    """A 1x1 convolution as one matrix product."""
    # The explicit reshape matters for the weight's gradient: XLA's CPU dot is fast on matrices only.
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

    # Nine reductions over one image at a time find it in the cache; over the whole batch each waits for memory (2-3x).
    dkernel = lax.map(kernel_gradient, (x, dy)).sum(0).reshape(kernel.shape)
    return _depthwise(dy, kernel[::-1, ::-1], dilation), dkernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _shifts(x: Array, size: int, dilation: int) -> list[tuple[tuple[int, int], Array]]:
    """What each tap of a kernel sees, padded with zeros. A tap whose whole view is padding is left out."""
    height, width = x.shape[1:3]
    reach = [dilation * (i - size // 2) for i in range(size)]
    # At rate 36 on a 20x20 map the centre is the only tap left.
    top = max(r for r in reach if r < height)
    left = max(r for r in reach if r < width)
    padded = jnp.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    return [
        ((i, j), padded[:, top + y : top + y + height, left + z : left + z + width])
        for i, y in enumerate(reach)
        for j, z in enumerate(reach)
        if abs(y) <= top and abs(z) <= left
    ]
