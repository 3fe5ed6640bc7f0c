"""DenseNet121 (Huang et al., 2017, arXiv 1608.06993), layer for layer as in torchvision."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from chexseg_jax.errors import InputError
from chexseg_jax.models.layers import (
    PRECISION,
    Kit,
    Moments,
    at_least_float32,
    average_pool,
    batch_moments,
    concatenate_moments,
    max_pool,
)

#: Channels of a dense layer's output.
GROWTH = 32
#: Dense layers in each block.
DEPTHS = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """A 1x1 convolution to 128 channels and a 3x3 one to 32, each after batch normalisation and ReLU."""

    dilation: int
    kit: Kit

    def setup(self):  # noqa: D102
        self.norm1 = self.kit.norm()
        self.conv1 = self.kit.conv(4 * GROWTH)
        self.norm2 = self.kit.norm()
        self.conv2 = self.kit.conv(GROWTH, 3, 1, self.dilation)

    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, moments: Moments | None
    ) -> Float[Array, "b h w 32"]:
        """The new channels, from all before them and (in training) their batch statistics."""
        y = self.conv1(self.norm1(x, train, relu=True, moments=moments))
        return self.conv2(self.norm2(y, train, relu=True))


class DenseBlock(nn.Module):
    """`depth` dense layers, each reading all channels before it."""

    depth: int
    dilation: int
    kit: Kit

    def setup(self):  # noqa: D102
        for i in range(self.depth):
            setattr(self, f"denselayer{i + 1}", self.kit.block(DenseLayer)(self.dilation, self.kit))

    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b h w k"], Moments | None]:
        """All channels and, in training, their batch statistics."""
        if not train:
            return self._in_place(x), None
        # A map's statistics do not depend on which later layer reads it: taken once, when the map is made. A step on a
        # CPU takes 1.1 times as long if each layer takes its own.
        moments = batch_moments(x, self.kit.axis_name)
        for i in range(self.depth):
            new = getattr(self, f"denselayer{i + 1}")(x, train, moments)
            x = jnp.concatenate([x, new], axis=-1)
            moments = concatenate_moments([moments, batch_moments(new, self.kit.axis_name)])
        return x, moments

    def _in_place(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ k"]:
        """The same without a gradient to keep maps for: every layer writes its channels where they belong.

        Concatenating moves a fifth more bytes on a GPU (26.2 GB against 21.3 for 64 Grad-CAMs, compiled for an
        H100); on a CPU it takes as long.
        """
        channels = x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, GROWTH * self.depth)))
        for i in range(self.depth):
            known = channels + GROWTH * i
            new = getattr(self, f"denselayer{i + 1}")(x[..., :known], False, None)
            x = lax.dynamic_update_slice(x, new, (0, 0, 0, known))
        return x


class Transition(nn.Module):
    """Reduce to `channels` and, if `pool`, to half the resolution."""

    channels: int
    pool: bool
    kit: Kit

    def setup(self):  # noqa: D102
        self.norm = self.kit.norm()
        self.conv = self.kit.conv(self.channels)

    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, moments: Moments | None
    ) -> Float[Array, "b _ _ k"]:
        """Normalise, pool and mix channels."""
        y = self.norm(x, train, relu=True, moments=moments)
        # torchvision mixes first. Both are linear and commute; in this order a quarter of the pixels are mixed.
        return self.conv(average_pool(y) if self.pool else y)


class DenseNet121(nn.Module):
    """DenseNet121; with `num_classes=0` an encoder only.

    Attributes:
      num_classes: logits; 0 for features without a head.
      output_stride: 32, or 16 without pooling in the last transition. Parameters are the same.
      dilate: at output stride 16, dilate the last block's 3x3 convolutions by 2 to keep their receptive field.
      dtype: of the computation, or its name; parameters, statistics and logits are float32.
      axis_name: the mapped axis over which batch statistics are synchronised.
      remat: see `Kit`; a block is a dense layer.
    """

    num_classes: int
    output_stride: int = 32
    dilate: bool = True
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    head = "classifier"
    stem = "conv0"

    def setup(self):  # noqa: D102
        if self.output_stride not in (16, 32):
            raise InputError(f"output_stride={self.output_stride} of DenseNet121 must be 32 or 16")
        kit = Kit(self.dtype, self.axis_name, remat=self.remat)
        widened = self.output_stride == 16
        self.conv0 = kit.conv(2 * GROWTH, 7, 2)
        self.norm0 = kit.norm()
        channels = 2 * GROWTH
        for i, depth in enumerate(DEPTHS, start=1):
            dilation = 2 if i == 4 and widened and self.dilate else 1
            setattr(self, f"denseblock{i}", DenseBlock(depth, dilation, kit))
            channels += GROWTH * depth
            if i < 4:
                channels //= 2
                setattr(self, f"transition{i}", Transition(channels, i < 3 or not widened, kit))
        self.norm5 = kit.norm()
        if self.num_classes:
            self.classifier = nn.Dense(self.num_classes, precision=PRECISION)

    def features(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """All maps by torchvision's names: `relu0` (the stem's), `denseblock1` to `denseblock4`.

        `features` is norm5's output, before the ReLU: the map that `classify` and Grad-CAM read.
        """
        out = {"relu0": self.norm0(self.conv0(images), train, relu=True)}
        x = max_pool(out["relu0"])
        for i in range(1, 5):
            x, moments = getattr(self, f"denseblock{i}")(x, train)
            out[f"denseblock{i}"] = x
            if i < 4:
                x = getattr(self, f"transition{i}")(x, train, moments)
        return out | {"features": self.norm5(x, train, moments=moments)}

    def stages(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """The last map at each stride, 2 to `output_stride`; the very last one normalised and after its ReLU."""
        out = self.features(images, train)
        maps = {2: out["relu0"], 4: out["denseblock1"], 8: out["denseblock2"], 16: out["denseblock3"]}
        return maps | {self.output_stride: nn.relu(out["features"])}

    def classify(self, features: Float[Array, "b h w d"]) -> Float[Array, "b k"] | None:
        """Logits from the last map: ReLU, global average pooling and a linear layer; None without a head."""
        pooled = nn.relu(at_least_float32(features)).mean((1, 2))
        return self.classifier(pooled) if self.num_classes else None

    def __call__(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> tuple[Float[Array, "b k"] | None, dict[str, Float[Array, "b h w d"]]]:
        """Images normalised by the caller to (logits, {"features": the map that Grad-CAM reads}).

        In training: `apply(..., train=True, mutable=["batch_stats"])`.
        """
        features = self.features(images, train)["features"]
        return self.classify(features), {"features": features}
