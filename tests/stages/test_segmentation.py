"""By which pathologies a checkpoint is chosen, and what a training goes on from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexseg_jax import models
from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.models.normalisation import IMAGENET
from chexseg_jax.saliency.thresholds import GRID
from chexseg_jax.saved_model import initialise_from, restore, save_model
from chexseg_jax.stages.segmentation import _evaluation, task_counts
from chexseg_jax.training import inference
from chexseg_jax.training.inference import make_inference

TASKS, COMMON_TASKS = CHEXPERT.tasks, CHEXPERT.common
SIZE = 32


@pytest.mark.parametrize(
    ("shown", "judged"),
    [
        (TASKS, COMMON_TASKS),
        ((*COMMON_TASKS, "Edema"), COMMON_TASKS),
        # As on the NIH sample: one common task, on one image.
        (
            ("Cardiomegaly", "Airspace Opacity", "Consolidation"),
            ("Cardiomegaly", "Airspace Opacity", "Consolidation"),
        ),
        (("Edema",), ("Edema",)),
    ],
)
def test_checkpoints_are_judged_by_the_common_tasks_if_radiologists_drew_them_all(shown, judged):
    masks = np.zeros((2, SIZE, SIZE, 10), bool)
    masks[:, 8:16, 8:16] = [task in shown for task in TASKS]
    zeros = np.zeros((2, SIZE, SIZE), np.uint8)
    validation = Prepared(
        ("a", "b"), zeros, np.zeros((2, 14)), np.full((2, 2), SIZE, np.int32), CHEXPERT, pack_masks(masks)
    )
    for k, task in enumerate(TASKS):  # a model that finds this one, and nothing else

        def infer(_, batch, k=k):
            inside = (jnp.arange(SIZE) >= 8) & (jnp.arange(SIZE) < 16)
            square = (inside[:, None] & inside)[..., None] * jax.nn.one_hot(k, 10)
            return jnp.broadcast_to(square, (len(batch["image"]), SIZE, SIZE, 10)) * 0.9

        score = _evaluation(infer, validation)({})["miou"]
        assert score == pytest.approx((task in judged) / len(judged))


def test_validation_fetches_counts_and_no_scores(monkeypatch):
    rng, fetched = np.random.default_rng(0), []
    scores, masks = rng.random((5, SIZE, SIZE, 10), np.float32), rng.random((5, SIZE, SIZE, 10)) < 0.4
    known = rng.random((5, 10)) < 0.7
    numbers = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None], (5, SIZE, SIZE))
    sizes = np.full((5, 2), SIZE, np.int32)
    images = Prepared(tuple("abcde"), numbers, np.zeros((5, 14)), sizes, CHEXPERT, pack_masks(masks), known)
    infer = make_inference(lambda variables, batch: variables["table"][batch["image"][:, 0, 0]])
    trim = inference._trim
    monkeypatch.setattr(
        inference, "_trim", lambda y, real: fetched.extend(jax.tree.leaves(y)) or trim(y, real)
    )
    intersections, unions = task_counts(infer, {"table": scores}, images, batch_size=2)
    predicted = scores[:, None] > np.float32(GRID)[:, None, None, None]
    counted = known[:, None, None, None]
    np.testing.assert_array_equal(intersections, (predicted & masks[:, None] & counted).sum((2, 3)))
    np.testing.assert_array_equal(unions, ((predicted | masks[:, None]) & counted).sum((2, 3)))
    assert {array.shape for array in fetched} == {(2, len(GRID), 10)}


@pytest.mark.filterwarnings("error")
def test_validation_images_without_masks_give_nothing_to_choose_by(capsys):
    masks, zeros = np.zeros((2, SIZE, SIZE, 10), bool), np.zeros((2, SIZE, SIZE), np.uint8)
    validation = Prepared(
        ("a", "b"), zeros, np.zeros((2, 14)), np.full((2, 2), SIZE, np.int32), CHEXPERT, pack_masks(masks)
    )
    assert np.isnan(_evaluation(lambda _, batch: jnp.zeros((2, SIZE, SIZE, 10)), validation)({})["miou"])
    assert "the tasks with validation masks: none" in capsys.readouterr().err


def test_a_segmentation_goes_on_from_another_as_it_is(tmp_path):
    module = models.create("deeplabv3plus_resnet18", num_classes=10)
    variables = jax.jit(module.init)(jax.random.key(1), jnp.zeros((1, SIZE, SIZE, 3)))
    save_model(
        tmp_path,
        variables,
        name="deeplabv3plus_resnet18",
        num_classes=10,
        options={},
        size=SIZE,
        tasks=TASKS,
        normalisation=IMAGENET,
    )
    params, state = initialise_from(restore(tmp_path), module, SIZE)(jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, {"params": params, **state}, dict(variables))
