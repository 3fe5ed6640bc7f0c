"""Any encoder, any decoder and a 1x1 head: a segmentation network, built as in segmentation-models-pytorch."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from chexseg_jax.errors import InputError
from chexseg_jax.models.layers import Conv, resize_bilinear


class Segmenter(nn.Module):
    """An encoder's maps, through a decoder and a head, upsampled to the images' size with aligned corners.

    Attributes:
      num_classes: masks, independent of each other (sigmoid).
      encoder, decoder: see `chexseg_jax.models`.
      dtype: of the computation, or its name; the logits are float32.
      mirror: in inference, average the logits of each image and of its mirror image.
    """

    num_classes: int
    encoder: nn.Module
    decoder: nn.Module
    dtype: Any = jnp.float32
    mirror: bool = False

    head = "segmentation_head_0"

    @property
    def stem(self) -> str | None:
        """The path of the encoder's first convolution."""
        return self.encoder.stem and f"encoder/{self.encoder.stem}"

    def setup(self):  # noqa: D102
        precise = jnp.promote_types(self.dtype, jnp.float32)
        self.segmentation_head = [Conv(self.num_classes, use_bias=True, dtype=precise)]

    def features(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> Float[Array, "b h w d"]:
        """The decoder's map.

        Raises:
          InputError: if the encoder has no map at a stride that the decoder needs.
        """
        maps = self.encoder.stages(images, train)
        for stride in self.decoder.strides:
            if stride not in maps:
                encoder, decoder = type(self.encoder).__name__, type(self.decoder).__name__
                raise InputError(
                    f"{decoder} needs a map at stride {stride}, and {encoder} has strides "
                    f"{', '.join(map(str, sorted(maps)))}; choose another encoder or decoder"
                )
        return self.decoder(maps, train)

    def segment(
        self, features: Float[Array, "b h w d"], size: tuple[int, int]
    ) -> Float[Array, "b height width k"]:
        """Logits at `size` (height, width) from the decoder's map."""
        (head,) = self.segmentation_head
        return resize_bilinear(head(features), size, align_corners=True)

    def __call__(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> tuple[Float[Array, "b height width k"], dict[str, Float[Array, "b h w d"]]]:
        """Images normalised by the caller to (logits at the images' size, {"features": the decoder's map}).

        In training: `apply(..., train=True, mutable=["batch_stats"], rngs={"dropout": key})`.
        """
        _, height, width, _ = images.shape
        features = self.features(images, train)
        logits = self.segment(features, (height, width))
        if self.mirror and not train:
            mirrored = self.segment(self.features(images[:, :, ::-1]), (height, width))
            logits = (logits + mirrored[:, :, ::-1]) / 2
        return logits, {"features": features}
