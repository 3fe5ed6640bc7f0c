"""DeepLabv3+ (Chen et al., 2018, arXiv 1802.02611) as segmentation-models-pytorch 0.6 builds it on a ResNet.

Encoder at output stride 16, separable ASPP at rates 12, 24, 36, 256 decoder channels, a 48-channel skip from
stride 4, a 1x1 head, bilinear upsampling with aligned corners.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from chexseg_jax.errors import InputError
from chexseg_jax.models.layers import BatchNorm, Conv, Dropout, Kit, at_least_float32, resize_bilinear
from chexseg_jax.models.resnet import ResNet18, ResNet50

#: Channels of the decoder, and of the skip connection from the encoder's first stage.
CHANNELS, SKIP_CHANNELS = 256, 48
#: Dilations of the three separable ASPP branches, in pixels at output stride 16.
RATES = (12, 24, 36)


def _separable(kit: Kit, channels: int, dilation: int = 1) -> list[Conv]:
    """A depthwise 3x3 convolution over `channels` and the pointwise one after it."""
    return [kit.conv(channels, 3, 1, dilation, depthwise=True), kit.conv(CHANNELS)]


def _run(layers: list, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w k"]:
    """Applies layers in order, a ReLU after each normalisation. Lists nest as the peer's `Sequential`s do."""
    for layer in layers:
        if isinstance(layer, BatchNorm):
            x = layer(x, train, relu=True)
        else:
            x = layer(x) if isinstance(layer, Conv) else _run(layer, x, train)
    return x


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 branch, three dilated ones, the image's mean, projected."""

    channels: int
    dropout: float
    kit: Kit

    def setup(self):  # noqa: D102
        kit = self.kit
        self.convs = [
            [kit.conv(CHANNELS), kit.norm()],
            *([_separable(kit, self.channels, rate), kit.norm()] for rate in RATES),
        ]
        # The peer's fifth branch counts its pooling as layer 0.
        self.convs_4_1, self.convs_4_2 = kit.conv(CHANNELS), kit.norm()
        self.project = [kit.conv(CHANNELS), kit.norm()]
        self.drop = Dropout(self.dropout, kit.axis_name)

    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w 256"]:
        """One map that has seen at every rate."""
        pooled = at_least_float32(x).mean((1, 2), keepdims=True)
        pooled = _run([self.convs_4_1, self.convs_4_2], pooled, train)
        branches = [_run(branch, x, train) for branch in self.convs]
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = _run(self.project, jnp.concatenate(branches, axis=-1), train)
        return self.drop(x, train)


class Decoder(nn.Module):
    """ASPP of the encoder's last map, joined at stride 4 with its first stage."""

    aspp_channels: int
    skip_channels: int
    aspp_dropout: float
    kit: Kit

    def setup(self):  # noqa: D102
        kit = self.kit
        self.aspp = [ASPP(self.aspp_channels, self.aspp_dropout, kit), _separable(kit, CHANNELS), kit.norm()]
        self.block1 = [kit.conv(SKIP_CHANNELS), kit.norm()]
        self.block2 = [_separable(kit, CHANNELS + SKIP_CHANNELS), kit.norm()]

    def __call__(
        self, last: Float[Array, "b i j c"], skip: Float[Array, "b h w k"], train: bool
    ) -> Float[Array, "b h w 256"]:
        """The map that the head reads."""
        aspp, *rest = self.aspp
        x = _run(rest, aspp(last, train), train)
        x = resize_bilinear(x, skip.shape[1:3], align_corners=True)
        return _run(self.block2, jnp.concatenate([x, _run(self.block1, skip, train)], axis=-1), train)


class DeepLabV3Plus(nn.Module):
    """DeepLabv3+ on a ResNet encoder.

    Attributes:
      num_classes: masks, independent of each other (sigmoid).
      bottleneck: a ResNet50 encoder, else ResNet18.
      aspp_dropout: rate after ASPP, in training only (needs `rngs={"dropout": key}`).
      stride_on: see `resnet.Bottleneck`.
      dtype: of the computation, or its name; parameters, statistics and logits are float32.
      axis_name: the mapped axis over which batch statistics are synchronised.
      cpu_kernels: see `layers.Conv`.
      remat: the encoder's, see `resnet.ResNet`.
      mirror: in inference, the logits are the mean of the image's and of its mirror image's.
    """

    num_classes: int
    bottleneck: bool
    aspp_dropout: float = 0.5
    stride_on: str = "conv2"
    dtype: Any = jnp.float32
    axis_name: str | None = None
    cpu_kernels: bool | None = None
    remat: bool = False
    mirror: bool = False

    def setup(self):  # noqa: D102
        shared = {"dtype": self.dtype, "axis_name": self.axis_name, "cpu_kernels": self.cpu_kernels}
        kit = Kit(**shared)
        make, expansion = (ResNet50, 4) if self.bottleneck else (ResNet18, 1)
        self.encoder = make(
            num_classes=0, output_stride=16, stride_on=self.stride_on, remat=self.remat, **shared
        )
        self.decoder = Decoder(512 * expansion, 64 * expansion, self.aspp_dropout, kit)
        self.segmentation_head = [
            kit.conv(self.num_classes, use_bias=True, dtype=jnp.promote_types(self.dtype, jnp.float32))
        ]

    def features(
        self, images: Float[Array, "b height width 3"], train: bool = False
    ) -> dict[str, Float[Array, "b h w c"]]:
        """The encoder's maps (see `ResNet.features`), and `decoder`: the map at stride 4 that `segment` reads."""
        out = self.encoder.features(images, train)
        return out | {"decoder": self.decoder(out["layer4"], out["layer1"], train)}

    def segment(
        self, features: Float[Array, "b h w 256"], size: tuple[int, int]
    ) -> Float[Array, "b height width k"]:
        """Logits at `size` (height, width) from the decoder's map."""
        return resize_bilinear(_run(self.segmentation_head, features, False), size, align_corners=True)

    def __call__(
        self, images: Float[Array, "b height width 3"], train: bool = False
    ) -> tuple[Float[Array, "b height width k"], dict[str, Float[Array, "b h w c"]]]:
        """Images normalised by the caller to (logits at the images' size, {"features": the decoder's map}).

        In training: `apply(..., train=True, mutable=["batch_stats"], rngs={"dropout": key})`.
        """
        features = self.features(images, train)["decoder"]
        logits = self.segment(features, images.shape[1:3])
        if self.mirror and not train:
            mirrored = self.features(images[:, :, ::-1])["decoder"]
            logits = (logits + self.segment(mirrored, images.shape[1:3])[:, :, ::-1]) / 2
        return logits, {"features": features}


DeepLabV3PlusResNet18 = partial(DeepLabV3Plus, bottleneck=False)
DeepLabV3PlusResNet50 = partial(DeepLabV3Plus, bottleneck=True)


def with_encoder(variables: dict, classifier_variables: dict) -> dict:
    """A DeepLabv3+'s variables with a ResNet classifier's encoder: its parameters and running statistics.

    Args:
      variables: of a `deeplabv3plus_*`.
      classifier_variables: of the `resnet*` of the same depth; its head is left out.

    Raises:
      InputError: where the encoders differ, naming each tensor that is missing, left over or of another shape.
    """
    result = dict(variables)
    for collection in ("params", "batch_stats"):
        old = flatten_dict(variables[collection]["encoder"], sep="/")
        new = {
            name: value
            for name, value in flatten_dict(classifier_variables[collection], sep="/").items()
            if not name.startswith("fc/")
        }
        problems = [f"{name} is missing" for name in sorted(old.keys() - new.keys())]
        problems += [f"{name} is left over" for name in sorted(new.keys() - old.keys())]
        problems += [
            f"{name} has shape {new[name].shape}, not {old[name].shape}"
            for name in sorted(old.keys() & new.keys())
            if new[name].shape != old[name].shape
        ]
        if problems:
            raise InputError(f"not the encoder's {collection}: {'; '.join(problems)}")
        result[collection] = variables[collection] | {"encoder": unflatten_dict(new, sep="/")}
    return result
