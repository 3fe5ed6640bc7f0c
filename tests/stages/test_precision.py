"""Where a GPU computes in full float32 and where in TF32, read in the programs that are handed to its compiler."""

import jax
import jax.numpy as jnp
import pytest

from chexseg_jax import models
from chexseg_jax.irnet.losses import irnet_loss
from chexseg_jax.models import cpu
from chexseg_jax.models.moco import Embedder
from chexseg_jax.models.normalisation import CHEXPERT
from chexseg_jax.saliency.gradcam import grad_cam
from chexseg_jax.stages.classifier import classifier_loss
from chexseg_jax.stages.moco import moco_init, moco_loss
from chexseg_jax.stages.segmentation import segmentation_loss
from chexseg_jax.training import optim
from chexseg_jax.training.loop import make_step
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh
from chexseg_jax.training.state import TrainState, initial_variables

SIZE, CLASSES = 64, 3


def shape(dtype, *sides):
    return jax.ShapeDtypeStruct((4, *sides), dtype)


IMAGE = {"image": shape(jnp.uint8, SIZE, SIZE)}


def network(name, num_classes=CLASSES, **options):
    return models.create(name, num_classes=num_classes, **options)


def classifier(name):
    module = network(name, axis_name=DATA_AXIS)
    targets = {column: shape(jnp.float32, CLASSES) for column in ("targets", "weights")}
    return classifier_loss(module, CHEXPERT, augmented=True), initial_variables(module, SIZE), IMAGE | targets


def segmentation(name):
    module = network(name, axis_name=DATA_AXIS)
    masks = {"masks": shape(jnp.uint8, SIZE, SIZE, 1), "known": shape(jnp.bool_, CLASSES)}
    return segmentation_loss(module, CHEXPERT, augmented=True), initial_variables(module, SIZE), IMAGE | masks


def moco(name):
    embedder = Embedder(network(name, 0))
    loss = moco_loss(embedder, CHEXPERT, temperature=0.2, key_momentum=0.9, norm_group=2, crop=0.5, size=SIZE)
    return loss, moco_init(embedder, SIZE, queue=8), IMAGE


def step(task, name):
    """A training step as it is lowered for any backend; a GPU's compiler adds nothing to a product's precision."""
    (loss, init, batch), optimizer = task(name), optim.adam(1e-4)

    def state(key):
        params, model_state = init(key)
        return TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params))

    key = jax.eval_shape(lambda: jax.random.key(0))
    return make_step(loss, optimizer, data_mesh(jax.devices()[:1])).lower(
        jax.eval_shape(state, key), batch, key
    )


def saliency():
    module = network("densenet121")
    params, rest = jax.eval_shape(initial_variables(module, SIZE), jax.random.key(0))
    return jax.jit(lambda variables, images: grad_cam(module, variables, images)).lower(
        {"params": params, **rest}, shape(jnp.float32, SIZE, SIZE, 3)
    )


def irnet():
    edge, field = shape(jnp.float32, 16, 16), shape(jnp.float32, 16, 16, 2)
    labels = shape(jnp.uint8, 16, 16, 1)
    return jax.jit(lambda *inputs: irnet_loss(*inputs, radius=3)).lower(edge, field, labels)


@pytest.mark.parametrize(
    "lower",
    [
        lambda: step(classifier, "resnet18"),
        lambda: step(segmentation, "deeplabv3plus_resnet18"),
        lambda: step(moco, "resnet18"),
        saliency,
        irnet,
    ],
    ids=["resnet18", "deeplabv3plus_resnet18", "moco", "densenet121 and saliency", "irnet"],
)
def test_products_are_in_float32_and_convolutions_in_a_gpus_default(lower):
    with cpu.override(False):
        lines = lower().as_text().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert products
    for line in products:
        assert "precision = [HIGHEST, HIGHEST]" in line, line
    assert not [line for line in lines if "stablehlo.convolution" in line and "HIGH" in line]
