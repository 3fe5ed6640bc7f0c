"""DeepLabv3+'s decoder (Chen et al., 2018, arXiv 1802.02611), as segmentation-models-pytorch 0.6 builds it.

Separable ASPP at rates 12, 24, 36 on the map at stride 16, 256 channels, a 48-channel skip from stride 4.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from chexseg_jax.models.layers import BatchNorm, Conv, Dropout, Kit, at_least_float32, resize_bilinear

#: Channels of the decoder, and of the skip connection from stride 4.
CHANNELS, SKIP_CHANNELS = 256, 48
#: Dilations of the three separable ASPP branches, in pixels at output stride 16.
RATES = (12, 24, 36)


def _separable(kit: Kit, dilation: int = 1) -> list[Conv]:
    """A depthwise 3x3 convolution and a pointwise one."""
    return [kit.conv(None, 3, 1, dilation, depthwise=True), kit.conv(CHANNELS)]


def _run(layers: Sequence[Any], x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ k"]:
    """Apply layers in order, with a ReLU after each normalisation. Lists nest as the peer's `Sequential`s do."""
    for layer in layers:
        if isinstance(layer, BatchNorm):
            x = layer(x, train, relu=True)
        else:
            x = layer(x) if isinstance(layer, Conv) else _run(layer, x, train)
    return x


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 branch, three dilated ones, the image's mean, projected."""

    dropout: float
    kit: Kit

    def setup(self):  # noqa: D102
        kit = self.kit
        near: list[Any] = [kit.conv(CHANNELS), kit.norm()]
        self.convs = [near, *([_separable(kit, rate), kit.norm()] for rate in RATES)]
        # The peer counts the pooling of its fifth branch as layer 0.
        self.convs_4_1, self.convs_4_2 = kit.conv(CHANNELS), kit.norm()
        self.project = [kit.conv(CHANNELS), kit.norm()]
        self.drop = Dropout(self.dropout, kit.axis_name)

    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w 256"]:
        """All branches, concatenated and projected."""
        pooled = at_least_float32(x).mean((1, 2), keepdims=True)
        pooled = _run([self.convs_4_1, self.convs_4_2], pooled, train)
        branches = [_run(branch, x, train) for branch in self.convs]
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = _run(self.project, jnp.concatenate(branches, axis=-1), train)
        return self.drop(x, train)


class DeepLabV3Plus(nn.Module):
    """The decoder: ASPP of the map at stride 16, upsampled and joined with the one at stride 4.

    Attributes:
      aspp_dropout: rate after ASPP, in training only (needs `rngs={"dropout": key}`).
      dtype: of the computation, or its name; parameters and statistics are float32.
      axis_name: the mapped axis over which batch statistics are synchronised.
    """

    aspp_dropout: float = 0.5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    strides = (4, 16)

    def setup(self):  # noqa: D102
        kit = Kit(self.dtype, self.axis_name)
        self.aspp: Any = [ASPP(self.aspp_dropout, kit), _separable(kit), kit.norm()]
        self.block1 = [kit.conv(SKIP_CHANNELS), kit.norm()]
        self.block2 = [_separable(kit), kit.norm()]

    def __call__(
        self, maps: Mapping[int, Float[Array, "b _ _ _"]], train: bool = False
    ) -> Float[Array, "b h w 256"]:
        """The map at stride 4 from an encoder's."""
        aspp, *rest = self.aspp
        x = _run(rest, aspp(maps[16], train), train)
        _, height, width, _ = maps[4].shape
        x = resize_bilinear(x, (height, width), align_corners=True)
        return _run(self.block2, jnp.concatenate([x, _run(self.block1, maps[4], train)], axis=-1), train)
