"""An encoder that compiles in a second, for tests of everything around it: `encoder.model = "tiny"`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from chexseg_jax import models
from chexseg_jax.models.layers import BatchNorm, Conv
from chexseg_jax.models.normalisation import Normalisation
from chexseg_jax.models.zoo import ENCODERS
from chexseg_jax.saved_model import save_model


class Tiny(nn.Module):
    """Patches of 4x4 pixels, then two convolutions, each with its normalisation."""

    num_classes: int
    output_stride: int = 16
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    head = "fc"
    stem = "conv1"

    def setup(self):
        self.conv1 = Conv(16, 5, 4)
        self.conv2 = Conv(24, 3, 2)
        self.conv3 = Conv(32, 3, 2)
        self.norms = [BatchNorm(self.axis_name) for _ in range(3)]
        if self.num_classes:
            self.fc = nn.Dense(self.num_classes)

    def stages(self, images, train=False):
        maps, x = {}, images.astype(self.dtype)
        for stride, conv, norm in zip(
            (4, 8, 16), (self.conv1, self.conv2, self.conv3), self.norms, strict=True
        ):
            x = maps[stride] = norm(conv(x), train, relu=True)
        return maps

    def classify(self, features):
        return self.fc(features.mean((1, 2))).astype(jnp.float32) if self.num_classes else None

    def __call__(self, images, train=False):
        features = self.stages(images, train)[16]
        return self.classify(features), {"features": features}


def he_weights(module: nn.Module, *, size: int = 64, channels: int = 3, seed: int = 0) -> Any:
    """Variables as numpy arrays, drawn without compiling `init`: maps keep their scale through the layers."""
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    draw = np.random.default_rng(seed)

    def value(path, leaf):
        if path[-1].key != "kernel":
            return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)
        return draw.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(value, jax.eval_shape(module.init, jax.random.key(0), images))


def save_random(folder, taxonomy, size=64):
    """Save a segmentation with random weights and thresholds of .5, without compiling anything."""
    ENCODERS["tiny"] = Tiny
    name, classes = "deeplabv3plus_tiny", len(taxonomy.tasks)
    folder.mkdir(exist_ok=True)
    save_model(
        folder,
        he_weights(models.create(name, num_classes=classes), size=size),
        name=name,
        num_classes=classes,
        options={},
        size=size,
        tasks=taxonomy.tasks,
        taxonomy=taxonomy,
        normalisation=Normalisation((0.5,) * 3, (0.25,) * 3),
        thresholds=dict.fromkeys(taxonomy.tasks, 0.5),
    )
