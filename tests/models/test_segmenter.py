"""Any decoder on any encoder, third parties' among them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden.peers import jit

from chexseg_jax import models
from chexseg_jax.errors import InputError
from chexseg_jax.models.encoders import input_channels, with_encoder


class PatchNet(nn.Module):
    """A third party's encoder: a 4x4 stem, no batch normalisation, maps at strides 4 to 32."""

    num_classes: int
    width: int = 4

    head = "answer"
    stem = "patches"

    def setup(self):
        self.patches = nn.Conv(self.width, (4, 4), (4, 4))
        self.down = [nn.Conv(self.width * 2**i, (2, 2), (2, 2)) for i in (1, 2, 3)]
        if self.num_classes:
            self.answer = nn.Dense(self.num_classes)

    def stages(self, images, train=False):
        x = nn.relu(self.patches(images))
        maps = {4: x}
        for stride, conv in zip((8, 16, 32), self.down, strict=True):
            x = maps[stride] = nn.relu(conv(x))
        return maps

    def classify(self, features):
        return self.answer(features.mean((1, 2))) if self.num_classes else None

    def __call__(self, images, train=False):
        features = self.stages(images, train)[32]
        return self.classify(features), {"features": features}


class UNet(nn.Module):
    """A third party's decoder: up from the coarsest map to the finest one."""

    width: int = 4

    strides = (4, 8, 16, 32)

    @nn.compact
    def __call__(self, maps, train=False):
        x = maps[max(maps)]
        for stride in sorted(maps, reverse=True)[1:]:
            x = jax.image.resize(x, (*maps[stride].shape[:3], x.shape[-1]), "nearest")
            x = nn.relu(nn.Conv(self.width, (3, 3))(jnp.concatenate([x, maps[stride]], axis=-1)))
        return x


@pytest.fixture
def extended(monkeypatch):
    monkeypatch.setitem(models.ENCODERS, "patchnet", PatchNet)
    monkeypatch.setitem(models.DECODERS, "unet", UNet)


def outputs(name, num_classes, **options):
    """Variables and what the network returns in training, at 64 px."""
    module = models.create(name, num_classes=num_classes, axis_name=None, **options)
    images = jnp.ones((2, 64, 64, 3))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(module.init, rngs, images)
    step = partial(module.apply, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
    return module, variables, jax.eval_shape(step, variables, images)


@pytest.mark.parametrize("encoder", ["resnet18", "densenet121", "patchnet"])
@pytest.mark.parametrize("decoder", ["deeplabv3plus", "unet"])
def test_any_decoder_on_any_encoder(decoder, encoder, extended):
    module, variables, ((logits, out), updated) = outputs(f"{decoder}_{encoder}", 3)
    assert variables["params"].keys() == {"encoder", "decoder", "segmentation_head_0"}
    assert logits.shape == (2, 64, 64, 3)
    # The U-Net goes up to the finest map, which the patches do not have.
    finest = 2 if decoder == "unet" and encoder != "patchnet" else 4
    assert out["features"].shape[:3] == (2, 64 // finest, 64 // finest)
    assert jax.tree.structure(updated.get("batch_stats", {})) == jax.tree.structure(
        variables.get("batch_stats", {})
    )
    assert module.encoder.head in ("fc", "classifier", "answer")


def test_a_third_partys_classifier_and_its_weights_in_a_segmentation(extended):
    module = models.create("patchnet", num_classes=5, width=2)
    images = jnp.ones((2, 64, 64, 1))
    classifier = jit(module.init)(jax.random.key(0), images)
    logits, out = jit(module.apply)(classifier, images)
    classified = jit(lambda v, x: module.apply(v, x, method="classify"))(classifier, out["features"])
    np.testing.assert_allclose(classified, logits, atol=1e-6)
    segmenter = models.create("unet_patchnet", num_classes=3, width=2)
    variables = with_encoder(jit(segmenter.init)(jax.random.key(1), images), classifier, head=module.head)
    assert variables.keys() == {"params"}
    assert jax.eval_shape(segmenter.apply, variables, images)[0].shape == (2, 64, 64, 3)
    assert input_channels(segmenter, variables) == 1


def test_a_stride_that_the_encoder_lacks_is_named_with_both(extended, monkeypatch):
    monkeypatch.setattr(UNet, "strides", (2, 4))
    with pytest.raises(
        InputError, match=r"UNet needs a map at stride 2, and PatchNet has strides 4, 8, 16, 32"
    ):
        outputs("unet_patchnet", 3)


def test_any_image_size(extended):
    for name in ("deeplabv3plus_resnet18", "unet_patchnet"):
        module = models.create(name, num_classes=3)
        variables = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 64, 64, 3)))
        logits, _ = jax.eval_shape(module.apply, variables, jnp.ones((1, 70, 53, 3)))
        assert logits.shape == (1, 70, 53, 3)


def test_a_mirrored_network_treats_both_sides_alike(extended):
    plain = models.create("unet_patchnet", num_classes=3)
    x = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
    variables = jit(plain.init)(jax.random.key(0), x)
    straight, mirrored = (jit(plain.clone(mirror=on).apply)(variables, x)[0] for on in (False, True))
    other = jit(plain.apply)(variables, x[:, :, ::-1])[0][:, :, ::-1]
    np.testing.assert_allclose(mirrored, (straight + other) / 2, atol=1e-5)
    assert not np.allclose(mirrored, straight, atol=1e-3)
