"""IRNet (Ahn et al., 2019, arXiv 1904.05044), layer for layer as `resnet50_irn` of its published code.

Two small heads on a frozen ResNet50: one draws boundaries between regions of a class, the other points from every
pixel to its instance's centroid. Neither distinguishes classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from chexseg_jax.errors import InputError
from chexseg_jax.models.layers import Kit, resize_bilinear
from chexseg_jax.models.resnet import ResNet50


class MeanShift(nn.Module):
    """Subtract the mean displacement over the training set, in inference only."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """`x`, or `x - mean`."""
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        return x if train else x - mean.value


class IRNet(nn.Module):
    """Boundary and displacement branches on a ResNet50 at output stride 16, its last stage not dilated.

    The trunk's batch normalisation is in inference mode always, and no gradient reaches it.

    Attributes:
      num_classes: 0, since IRNet has no classes.
      stride_on: see `resnet.Bottleneck`.
      dtype: of the computation, or its name; parameters and statistics are float32, and so is the output.
    """

    num_classes: int = 0
    stride_on: str = "conv2"
    dtype: Any = jnp.float32

    head = None
    stem = "resnet50/conv1"

    def setup(self):  # noqa: D102
        if self.num_classes:
            raise InputError(f"num_classes={self.num_classes}: irnet has no classes; give 0")
        kit = Kit(self.dtype, None)
        self.resnet50 = ResNet50(
            num_classes=0,
            output_stride=16,
            dilate=False,
            stride_on=self.stride_on,
            dtype=self.dtype,
        )

        def block(channels: int, groups: int) -> list[nn.Module]:
            return [kit.conv(channels), nn.GroupNorm(groups, epsilon=1e-5, dtype=self.dtype)]

        for stage in range(1, 6):
            setattr(self, f"fc_edge{stage}", block(32, 4))
        # The loss and the walk read float32, whatever the rest is computed in.
        precise = jnp.promote_types(self.dtype, jnp.float32)
        self.fc_edge6 = kit.conv(1, use_bias=True, dtype=precise)
        self.fc_dp1 = block(64, 8)
        self.fc_dp2 = block(128, 16)
        for stage in range(3, 7):
            setattr(self, f"fc_dp{stage}", block(256, 16))
        # The published Sequential counts its ReLU as layer 2.
        self.fc_dp7_0, self.fc_dp7_1 = block(256, 16)
        self.fc_dp7_3, self.fc_dp7_4 = kit.conv(2, dtype=precise), MeanShift()

    def features(self, images: Float[Array, "b height width c"]) -> dict[str, Float[Array, "b _ _ _"]]:
        """The frozen trunk's maps, see `ResNet.features`."""
        return jax.lax.stop_gradient(self.resnet50.features(images, train=False))

    def branches(
        self, maps: dict[str, Float[Array, "b _ _ _"]], train: bool = False
    ) -> dict[str, Float[Array, "b h w _"]]:
        """`edge` (logits) and `displacement` (dy, dx in pixels of the map) from the trunk's maps, at stride 4."""
        stages = [maps[name] for name in ("maxpool", "layer1", "layer2", "layer3", "layer4")]

        def run(name: str, x: Array, up: int = 1, like: Array | None = None) -> Array:
            conv, norm = getattr(self, name)
            x = norm(conv(x))
            if up > 1 and like is not None:
                x = resize_bilinear(x, (up * x.shape[1], up * x.shape[2]), align_corners=False)
                x = x[:, : like.shape[1], : like.shape[2]]
            return nn.relu(x)

        scales = (1, 1, 2, 4, 4)
        edges = [run(f"fc_edge{i + 1}", x, scales[i], stages[1]) for i, x in enumerate(stages)]
        near = [run("fc_dp1", stages[0]), run("fc_dp2", stages[1])]
        far = [run("fc_dp3", stages[2])]
        far += [run(f"fc_dp{i}", stages[i - 1], 2, far[0]) for i in (4, 5)]
        near.append(run("fc_dp6", jnp.concatenate(far, axis=-1), 2, near[1]))
        x = nn.relu(self.fc_dp7_1(self.fc_dp7_0(jnp.concatenate(near, axis=-1))))
        edge = self.fc_edge6(jnp.concatenate(edges, axis=-1))
        return {"edge": edge, "displacement": self.fc_dp7_4(self.fc_dp7_3(x), train)}

    def __call__(
        self, images: Float[Array, "b height width c"], train: bool = False
    ) -> tuple[None, dict[str, Float[Array, "b h w _"]]]:
        """Images normalised by the caller to (None, {"edge": logits [b,h,w,1], "displacement": [b,h,w,2]}).

        Both are at stride 4. Displacements are (dy, dx) towards the centroid, in pixels of the map.
        """
        return None, self.branches(self.features(images), train)
