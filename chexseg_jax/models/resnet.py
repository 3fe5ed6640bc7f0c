"""ResNet (He et al., 2016, arXiv 1512.03385), layer for layer as in torchvision."""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from chexseg_jax.errors import InputError
from chexseg_jax.models.layers import PRECISION, Kit, at_least_float32, max_pool

#: Variance 2 / fan_out, as in torchvision's ResNets.
_KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the block of ResNet18 and 34."""

    channels: int
    stride: int
    dilation: int
    project: bool
    kit: Kit

    def setup(self):  # noqa: D102
        self.conv1 = self.kit.conv(self.channels, 3, self.stride, self.dilation)
        self.bn1 = self.kit.norm()
        self.conv2 = self.kit.conv(self.channels, 3, 1, self.dilation)
        self.bn2 = self.kit.norm()
        if self.project:
            self.downsample = [self.kit.conv(self.channels, 1, self.stride), self.kit.norm()]

    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ k"]:
        """One residual step."""
        y = self.bn1(self.conv1(x), train, relu=True)
        y = self.bn2(self.conv2(y), train)
        if self.project:
            conv, norm = self.downsample
            x = norm(conv(x), train)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut: the block of ResNet50 and deeper.

    `stride_on` names the convolution with the stride: `conv2` as in torchvision ("v1.5"), `conv1` as in the paper and
    the first published weights.
    """

    channels: int
    stride: int
    dilation: int
    project: bool
    kit: Kit
    stride_on: str = "conv2"

    def setup(self):  # noqa: D102
        first, second = (self.stride, 1) if self.stride_on == "conv1" else (1, self.stride)
        self.conv1 = self.kit.conv(self.channels, 1, first)
        self.bn1 = self.kit.norm()
        self.conv2 = self.kit.conv(self.channels, 3, second, self.dilation)
        self.bn2 = self.kit.norm()
        self.conv3 = self.kit.conv(4 * self.channels, 1)
        self.bn3 = self.kit.norm()
        if self.project:
            self.downsample = [self.kit.conv(4 * self.channels, 1, self.stride), self.kit.norm()]

    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ k"]:
        """One residual step."""
        y = self.bn1(self.conv1(x), train, relu=True)
        y = self.bn2(self.conv2(y), train, relu=True)
        y = self.bn3(self.conv3(y), train)
        if self.project:
            conv, norm = self.downsample
            x = norm(conv(x), train)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A ResNet classifier; with `num_classes=0` an encoder only.

    Attributes:
      num_classes: logits; 0 for features without a head.
      depths: blocks in each of the four stages.
      bottleneck: the three-convolution block, else the two-convolution one.
      output_stride: 32, or 16 for a last stage that keeps the resolution. Parameters are the same.
      dilate: at output stride 16, dilate the last stage's 3x3 convolutions by 2 to keep their receptive field.
      stride_on: see `Bottleneck`.
      dtype: of the computation, or its name; parameters, statistics and logits are float32.
      axis_name: the mapped axis over which batch statistics are synchronised.
      remat: see `Kit`; a block is a residual one.
    """

    num_classes: int
    depths: tuple[int, ...]
    bottleneck: bool
    output_stride: int = 32
    dilate: bool = True
    stride_on: str = "conv2"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    head = "fc"
    stem = "conv1"

    def setup(self):  # noqa: D102
        if self.output_stride not in (16, 32):
            raise InputError(f"output_stride={self.output_stride} of a ResNet must be 32 or 16")
        if self.stride_on not in ("conv1", "conv2"):
            raise InputError(f"stride_on={self.stride_on!r} must be conv1 or conv2")
        kit = Kit(self.dtype, self.axis_name, _KERNEL_INIT, self.remat)
        block = kit.block(Bottleneck if self.bottleneck else BasicBlock)
        options = {"stride_on": self.stride_on} if self.bottleneck else {}
        self.conv1 = kit.conv(64, 7, 2)
        self.bn1 = kit.norm()
        for stage, depth in enumerate(self.depths):
            widened = stage == 3 and self.output_stride == 16
            stride = 1 if stage == 0 or widened else 2
            dilation = 2 if widened and self.dilate else 1
            blocks = [
                block(
                    64 * 2**stage,
                    stride if i == 0 else 1,
                    dilation,
                    # The stem of a ResNet18 already has the first stage's channels.
                    i == 0 and (stage > 0 or self.bottleneck),
                    kit,
                    **options,
                )
                for i in range(depth)
            ]
            setattr(self, f"layer{stage + 1}", blocks)
        if self.num_classes:
            self.fc = nn.Dense(self.num_classes, precision=PRECISION)

    def features(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """All maps by torchvision's names: `relu` (the stem's), `maxpool`, `layer1` to `layer4`.

        `features` is `layer4` again: the map that `classify` and Grad-CAM read.
        """
        out = {"relu": self.bn1(self.conv1(images), train, relu=True)}
        x = out["maxpool"] = max_pool(out["relu"])
        for name in ("layer1", "layer2", "layer3", "layer4"):
            for block in getattr(self, name):
                x = block(x, train)
            out[name] = x
        return out | {"features": x}

    def stages(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> dict[int, Float[Array, "b _ _ _"]]:
        """The last map at each stride, 2 to `output_stride`."""
        out = self.features(images, train)
        maps = {2: out["relu"], 4: out["layer1"], 8: out["layer2"], 16: out["layer3"]}
        return maps | {self.output_stride: out["layer4"]}

    def classify(self, features: Float[Array, "b h w c"]) -> Float[Array, "b k"] | None:
        """Logits from the last map: global average pooling and a linear layer; None without a head."""
        return self.fc(at_least_float32(features).mean((1, 2))) if self.num_classes else None

    def __call__(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> tuple[Float[Array, "b k"] | None, dict[str, Float[Array, "b _ _ _"]]]:
        """Images normalised by the caller to (logits, {"features": the last map}).

        In training: `apply(..., train=True, mutable=["batch_stats"])`.
        """
        features = self.features(images, train)["features"]
        return self.classify(features), {"features": features}


ResNet18 = partial(ResNet, depths=(2, 2, 2, 2), bottleneck=False)
ResNet50 = partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True)
