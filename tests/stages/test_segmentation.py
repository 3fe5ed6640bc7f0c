"""By which pathologies a checkpoint is chosen, and what a training goes on from."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.data.transforms import augment, unpack_masks
from chexseg_jax.models.normalisation import IMAGENET, normalise
from chexseg_jax.saliency.thresholds import GRID
from chexseg_jax.saved_model import initialise_from, restore, save_model
from chexseg_jax.stages import segmentation as stage
from chexseg_jax.stages.segmentation import _evaluation, segmentation_loss, task_counts, train_segmentation
from chexseg_jax.training import inference
from chexseg_jax.training.inference import make_inference
from chexseg_jax.training.losses import dice_loss
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh
from chexseg_jax.training.state import TrainState

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


class Grey(nn.Module):
    """Its logits are multiples of the grey values."""

    @nn.compact
    def __call__(self, images, train=False):
        return images[..., :1] * self.param("slope", nn.initializers.ones, (10,)), {}


@pytest.mark.parametrize("augmented", [True, False])
def test_the_loss_is_dice_of_what_is_known_on_images_and_masks_moved_alike(augmented):
    rng, slope = np.random.default_rng(0), jnp.linspace(-1, 1, 10)
    images = jnp.asarray(rng.integers(0, 256, (4, SIZE, SIZE), dtype=np.uint8))
    planes = jnp.asarray(pack_masks(rng.random((4, SIZE, SIZE, 10)) < 0.4))
    known, keys = jnp.asarray(rng.random((4, 10)) < 0.6), jax.random.split(jax.random.key(0), 4)
    loss = segmentation_loss(Grey(), IMAGENET, augmented=augmented)
    sharded = jax.shard_map(
        lambda batch, keys: jax.lax.pmean(loss({"slope": slope}, {}, batch, keys)[0], DATA_AXIS),
        mesh=data_mesh(),
        in_specs=P(DATA_AXIS),
        out_specs=P(),
    )
    value = jax.jit(sharded)({"image": images, "masks": planes, "known": known}, keys)
    if augmented:
        images, planes = augment(keys, images, planes)
    logits = normalise(images, IMAGENET)[..., :1] * slope
    np.testing.assert_allclose(value, dice_loss(logits, unpack_masks(planes, 10), known=known), rtol=1e-5)


def ramps(threshold, rows=SIZE, count=1):
    """Images that brighten from left to right in some rows, and their masks: what is above a threshold."""
    images = np.zeros((count, SIZE, SIZE), np.uint8)
    images[:, :rows] = np.linspace(0, 255, SIZE)
    return images, images > 255 * threshold


@pytest.fixture
def training(tmp_path, monkeypatch):
    """Train on ten expert and ten pseudo-masked images with `fit` replaced by nothing; return its arguments.

    The model takes brightness for probability. Of the expert images, 0 to 6 are for training: one shows a large Edema
    above .3, five a small one above .8, and one an unknown Edema, above .6. 7 to 9, above .5, are for validation.
    """
    parts = [ramps(0.3), ramps(0.8, rows=2, count=5), ramps(0.6), ramps(0.5, count=3)]
    images, edema = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    masks, known = np.zeros((10, SIZE, SIZE, 10), bool), np.ones((10, 10), bool)
    masks[..., TASKS.index("Edema")] = edema
    known[6, TASKS.index("Edema")] = False
    for name in ("expert", "pseudo", "part"):
        (tmp_path / name).mkdir()
        ids, labels, sizes = (
            tuple(f"{name}{i}" for i in range(10)),
            np.zeros((10, 14)),
            np.full((10, 2), SIZE),
        )
        if name != "part":
            Prepared(ids, images, labels, sizes, CHEXPERT, pack_masks(masks), known).save(tmp_path / name)
    infer = make_inference(lambda _, batch: jnp.repeat(batch["image"][..., None] / 255.0, 10, -1))
    monkeypatch.setattr(stage, "probabilities_of", lambda *_: infer)
    monkeypatch.setattr(stage, "save_model", lambda *_, **more: saved.update(more))
    saved = {}

    def run(*, p=0.7, seed=3, **changes):
        def fit(*_, **more):
            saved.update(more)
            return TrainState(0, {}, {}, None)

        monkeypatch.setattr(stage, "fit", fit)
        config = {
            "decoder": "deeplabv3plus",
            "options": {},
            "steps": 20,
            "learning_rate": 0.5,
            "batch_size": 4,
        }
        config |= {"warmup_share": 0.0, "decay": False, "augment": False, "checkpoint_every": 10} | changes
        train_segmentation(
            tmp_path / "part",
            config=ConfigDict(config),
            encoder="resnet18",
            p=p,
            expert=tmp_path / "expert",
            train_rows=np.arange(7),
            validation_rows=np.arange(7, 10),
            pseudo=tmp_path / "pseudo",
            start=None,
            seed=seed,
        )
        return SimpleNamespace(**saved)

    return run


def test_thresholds_are_the_best_pooled_ones_on_the_known_expert_training_masks(training, tmp_path):
    made = training()
    expected = dict.fromkeys(TASKS, 0.5) | {
        "Edema": 0.3
    }  # .8 in the mean of images, .5 on the validation images
    assert made.thresholds == expected
    assert json.loads((tmp_path / "part" / "thresholds.json").read_text()) == expected
    assert made.best == "miou"
    assert made.evaluate({})["miou"] == pytest.approx(1, abs=0.05)  # at .5, on the validation images


def test_a_training_draws_training_and_pseudo_masked_images_as_p_and_the_seed_say(training):
    def drawn(**settings):
        stream = training(**settings).batches
        batches = [next(stream) for _ in range(30)]
        return np.concatenate([batch["id"] for batch in batches]), batches[0]

    names, batch = drawn()
    assert {name for name in names if name.startswith("expert")} == {f"expert{i}" for i in range(7)}
    assert np.mean([name.startswith("expert") for name in names]) == pytest.approx(0.7, abs=0.15)
    for name, known, masks in zip(*(batch[key] for key in ("id", "known", "masks")), strict=True):
        assert known[TASKS.index("Edema")] == (not name.endswith("6"))
        assert masks.any()
    assert not np.array_equal(drawn(seed=4)[0], names)


@pytest.mark.parametrize(("decay", "warmup_share"), [(False, 0.0), (True, 0.1)])
def test_the_rate_is_constant_or_rises_and_falls_as_configured(training, decay, warmup_share):
    made = training(decay=decay, warmup_share=warmup_share)
    params, state, rates = jnp.zeros(()), made.optimizer.init(jnp.zeros(())), []
    for _ in range(made.steps):
        updates, state = made.optimizer.update(jnp.ones(()), state, params)
        rates.append(-float(updates))
    assert len(rates) == 20
    if decay:
        assert (rates[0], np.argmax(rates)) == (0, 2)
        assert rates[-1] < 0.01
    else:
        np.testing.assert_allclose(rates, 0.5, rtol=1e-4)
