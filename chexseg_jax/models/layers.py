"""The layers of the networks: convolution, batch normalisation, dropout, pooling, bilinear resizing.

All maps are NHWC. Each layer computes the same as PyTorch's of that name: padding is symmetric and explicit (XLA's
`SAME` is not, at stride 2), and batch normalisation keeps the unbiased variance.

Speed on a CPU is `cpu`'s concern.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Shaped

from chexseg_jax.models.cpu import convolve

#: Variance 2 / fan_in (He et al., 2015, arXiv 1502.01852).
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

#: Of matrix products: full float32, as in PyTorch, where JAX's default on a GPU is TF32 (ten bits of fraction).
#: Convolutions are TF32 by default in both.
PRECISION = lax.Precision.HIGHEST


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Widen narrower types to float32: sums over many values are never taken in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Conv(nn.Module):
    """Convolution with torch's padding, `dilation * (size - 1) / 2` zeros on every side.

    Attributes:
      features: channels out; None with `depthwise`, which has as many as the map.
      size: side of the square kernel, odd.
      stride: of the output grid.
      dilation: distance between taps, in pixels.
      depthwise: one kernel per channel and no mixing.
      use_bias: adds a bias per channel.
      dtype: of the computation, or its name; parameters are float32.
    """

    features: int | None
    size: int = 1
    stride: int = 1
    dilation: int = 1
    depthwise: bool = False
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = HE_NORMAL

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ k"]:
        """Convolve; the output side is `ceil(side / stride)`."""
        channels, features = (1, x.shape[-1]) if self.depthwise else (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, (self.size, self.size, channels, features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = convolve(
            x,
            kernel,
            self.stride,
            self.dilation,
            depthwise=self.depthwise,
        )
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (features,)).astype(self.dtype)
        return y


#: Weight of the old running statistics (torch's momentum, 0.1, is that of the new ones); addend of the variance.
MOMENTUM, EPSILON = 0.9, 1e-5


class Moments(NamedTuple):
    """Batch statistics per channel, in float32: mean, biased variance, and number of values."""

    mean: Float[Array, " c"]
    var: Float[Array, " c"]
    values: int


def batch_moments(x: Float[Array, "b h w c"], axis_name: str | None = None) -> Moments:
    """Statistics over batch, pixels and the devices of the mapped axis `axis_name`, by one collective."""
    x = at_least_float32(x)
    over = tuple(range(x.ndim - 1))
    devices = 1 if axis_name is None else lax.axis_size(axis_name)

    def of_all(moment: Array) -> Array:
        """The moment of one device is that of all; JAX has yet to learn that it is replicated."""
        return moment if axis_name is None or devices > 1 else lax.pmean(moment, axis_name)

    mean = of_all(jnp.mean(x, over))
    # Two passes, because E[x^2] - E[x]^2 cancels if the mean outweighs the spread.
    var = of_all(_variance(x, mean, over))
    values = devices * (x.size // x.shape[-1])
    if axis_name is None or devices == 1:
        return Moments(mean, var, values)
    # The devices have equally many values, so the variance is the mean of their variances plus the variance of their
    # means. A mean over devices would be a second collective, to wait for before the variance.
    means, variances = jnp.moveaxis(from_all_devices(jnp.stack([mean, var])[None], axis_name), 1, 0)
    mean = jnp.mean(means, 0)
    return Moments(mean, jnp.mean(variances, 0) + _variance(means, mean, 0), values)


def _variance(
    x: Float[Array, "*n c"], mean: Float[Array, " c"], over: int | tuple[int, ...]
) -> Float[Array, " c"]:
    # Stationary in the mean, so stopping its gradient is exact; it saves a pass of the backward.
    return jnp.mean(jnp.square(x - lax.stop_gradient(mean)), over)


def from_all_devices(x: Shaped[Array, "b *rest"], axis_name: str) -> Shaped[Array, "B *rest"]:
    """Gather the rows of all devices of a mapped axis: by a sum, which JAX infers to be replicated."""
    place = lax.axis_index(axis_name) * len(x)
    zeros = jnp.zeros((lax.axis_size(axis_name) * len(x), *x.shape[1:]), x.dtype)
    return lax.psum(lax.dynamic_update_slice_in_dim(zeros, x, place, axis=0), axis_name)


def concatenate_moments(parts: Sequence[Moments]) -> Moments:
    """The statistics of maps concatenated by channel, from those of each map."""
    means, variances, counts = zip(*parts, strict=True)
    return Moments(jnp.concatenate(means), jnp.concatenate(variances), counts[0])


class BatchNorm(nn.Module):
    """Batch normalisation as `torch.nn.BatchNorm2d`: the running variance is the unbiased one, n / (n - 1).

    Attributes:
      axis_name: the mapped axis over whose devices statistics are taken; None for this device only.
      dtype: of the output, or its name; statistics and parameters are float32.
    """

    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, *, relu: bool = False, moments: Moments | None = None
    ) -> Float[Array, "b h w c"]:
        """Normalise by the batch's statistics in training, and update the running ones; else by the running ones.

        Args:
          x: the map.
          train: use the batch's statistics.
          relu: apply a ReLU to the result.
          moments: the batch's statistics, if known.
        """
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var, values = moments or batch_moments(x, self.axis_name)
            if self.is_mutable_collection("batch_stats") and not self.is_initializing():
                unbiased = var * (values / jnp.maximum(values - 1, 1))
                running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
                running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * unbiased
        # One multiply-add, as in torch, whose gradient reads x and dy once. (x - mean) * slope takes 1.7 times as long
        slope = scale * lax.rsqrt(var + EPSILON)
        y = at_least_float32(x) * slope + (bias - mean * slope)
        return (nn.relu(y) if relu else y).astype(self.dtype)


class Dropout(nn.Module):
    """Dropout by a key per row of the global batch: the same on any number of devices.

    Attributes:
      rate: share of values zeroed in training.
      axis_name: the mapped axis that the batch is split over. All its devices have the same key `dropout`.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *rest"], train: bool) -> Float[Array, "b *rest"]:
        """Zero and scale in training; else return `x`."""
        if not train or not self.rate:
            return x
        first = 0 if self.axis_name is None else lax.axis_index(self.axis_name) * len(x)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), first + jnp.arange(len(x)))
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(kept, x / (1 - self.rate), 0)


@dataclass(frozen=True)
class Kit:
    """The settings that all layers of a network share (see `Conv` and `BatchNorm`).

    With `remat`, the backward pass computes a block's inner maps again instead of keeping them: less memory, more time.
    """

    dtype: Any = jnp.float32
    axis_name: str | None = None
    kernel_init: nn.initializers.Initializer = HE_NORMAL
    remat: bool = False

    def conv(
        self, features: int | None, size: int = 1, stride: int = 1, dilation: int = 1, **options: Any
    ) -> Conv:
        """A convolution, by default without bias."""
        shared = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        return Conv(features, size, stride, dilation, **(shared | options))

    def norm(self) -> BatchNorm:
        """A batch normalisation."""
        return BatchNorm(self.axis_name, self.dtype)

    def block(self, make: Any) -> Any:
        """`make`, the class of a block called with (x, train, ...), wrapped if `remat`."""
        return nn.remat(make, static_argnums=(2,)) if self.remat else make


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    """Max pooling of 3x3 at stride 2, with one pixel of padding."""
    height, width = ((side + 1) // 2 for side in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    views = [
        padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)
    ]
    # The gradient of `lax.reduce_window` is a scatter, ten times slower on CPU. Ties go to the first, as in torch.
    return reduce(lambda best, view: jnp.where(view > best, view, best), views)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    """Average pooling of 2x2 at stride 2, without an odd last row or column, as in torch."""
    batch, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width].reshape(batch, height, 2, width, 2, channels)
    return x.mean((2, 4))


def resize_bilinear(
    x: Float[Array, "b h w c"], size: tuple[int, int], *, align_corners: bool
) -> Float[Array, "b _ _ c"]:
    """Bilinear interpolation, as `torch.nn.functional.interpolate(mode="bilinear")`, without antialiasing.

    Args:
      x: the map.
      size: height and width of the result.
      align_corners: True maps corner to corner; False has half-pixel centres, as in OpenCV.
    """
    batch, height, width, channels = x.shape
    rows = jnp.asarray(_interpolation(height, size[0], align_corners), x.dtype)
    columns = jnp.asarray(_interpolation(width, size[1], align_corners), x.dtype)
    # Two products with small constant matrices, cheap next to a convolution. A copy of the matrix per product keeps
    # XLA from transposing the maps.
    product = partial(jnp.matmul, precision=PRECISION)
    x = x.reshape(batch * height, width, channels)
    x = product(jnp.broadcast_to(columns, (x.shape[0], *columns.shape)), x)
    x = product(jnp.broadcast_to(rows, (batch, *rows.shape)), x.reshape(batch, height, -1))
    return x.reshape(batch, *size, channels)


def _interpolation(source: int, target: int, align_corners: bool) -> Float[np.ndarray, "target source"]:
    """Weights of the source pixels (columns) in each target pixel (row)."""
    if align_corners:
        at = np.arange(target) * ((source - 1) / max(target - 1, 1))
    else:
        at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = np.minimum(at.astype(int), source - 1)
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((target, source))
    np.add.at(weights, (np.arange(target), low), 1 - (at - low))
    np.add.at(weights, (np.arange(target), high), at - low)
    return weights
