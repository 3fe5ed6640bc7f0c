import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from chexseg_jax.artifact import Store
from chexseg_jax.data.images import fit_image, read_grey
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.transforms import augment
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.auroc import auroc
from chexseg_jax.models.normalisation import CHEXPERT, normalise
from chexseg_jax.sources import open_sources
from chexseg_jax.stages import classifier as stage
from chexseg_jax.stages.classifier import classifier_loss, score_classifier, train_classifier
from chexseg_jax.stages.prepare import prepare
from chexseg_jax.training.inference import make_inference
from chexseg_jax.training.losses import bce_loss
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh


@pytest.fixture
def valid(download, tmp_path):
    """(table, folder of the prepared set) of the valid split, whose masks file lists every second image."""
    file = download / "gt_segmentations_val.json"
    masks = json.loads(file.read_text())
    file.write_text(json.dumps(dict(list(masks.items())[::2])))
    split = open_sources(Store(tmp_path), ConfigDict({"root": str(download)})).valid
    (tmp_path / "valid").mkdir()
    config = ConfigDict({"size": 32, "views": "both", "max_missing": 0.0})
    prepare(tmp_path / "valid", config=config, split=split)
    return split.studies, tmp_path / "valid"


@pytest.fixture
def brightness(monkeypatch):
    """A classifier whose logit of every label is the image's mean."""
    model = SimpleNamespace(module=None, variables={}, normalisation=None)
    model.outputs_of = lambda taxonomy: np.array(taxonomy.label_indices)
    infer = make_inference(
        lambda _, batch: jnp.repeat(batch["image"].astype(jnp.float32).mean((1, 2))[:, None], 14, 1)
    )
    monkeypatch.setattr(stage, "restore", lambda _: model)
    monkeypatch.setattr(stage, "logits_of", lambda *_: infer)


def by_hand(studies):
    """AUROC over all images of the table."""
    images = np.array([fit_image(read_grey(path), 32) for path in studies.paths])
    labels = studies.labels[:, studies.taxonomy.label_indices]
    return auroc(np.repeat(images.mean((1, 2))[:, None], len(studies.taxonomy.tasks), 1), labels)


def test_auroc_is_over_the_whole_table(valid, brightness, tmp_path):
    studies, folder = valid
    expected = by_hand(studies)
    assert np.isfinite(expected).sum() > 3
    score_classifier(tmp_path, classifier=tmp_path, splits={"valid": folder})
    scores = json.loads((tmp_path / "auroc.json").read_text())["valid"]
    assert scores == studies.taxonomy.named(expected)


def train(folder, tmp_path, monkeypatch, **changes):
    """Train on the valid split with `fit` replaced by nothing; return its arguments."""
    taken = SimpleNamespace()

    def fit(*_, **more):
        vars(taken).update(more)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "fit", fit)
    config = {"model": "resnet18", "options": {}, "epochs": 3.0, "batch_size": 2, "learning_rate": 0.1}
    config |= {"warmup_share": 0.0, "decay": False, "augment": False, "checkpoint_every": 1} | changes
    with pytest.raises(KeyboardInterrupt):
        train_classifier(
            tmp_path,
            config=ConfigDict(config),
            uncertainty="ignore",
            weak=folder,
            expert=folder,
            start=None,
            seed=0,
        )
    return taken


def test_labels_that_are_all_ignored_train_nothing(valid, tmp_path):
    _, folder = valid
    prepared = Prepared.load(folder)
    (tmp_path / "blank").mkdir()
    replace(prepared, labels=np.full_like(prepared.labels, np.nan)).save(tmp_path / "blank")
    config = ConfigDict({"model": "resnet18", "options": {}})
    with pytest.raises(
        InputError, match=r"no train image has a label .*'ignore;blank=ignore' does not ignore"
    ):
        train_classifier(
            tmp_path,
            config=config,
            uncertainty="ignore;blank=ignore",
            weak=tmp_path / "blank",
            expert=folder,
            start=None,
            seed=0,
        )


def test_the_checkpoint_is_chosen_over_the_whole_table(valid, brightness, tmp_path, monkeypatch):
    studies, folder = valid
    made = train(folder, tmp_path, monkeypatch)
    assert made.evaluate({})["auroc"] == pytest.approx(np.nanmean(by_hand(studies)))
    assert made.best == "auroc"
    assert len(Prepared.load(folder)) == len(studies)


def test_a_task_without_an_output_has_no_auroc_and_the_first_output_counts(valid, brightness, tmp_path):
    studies, folder = valid
    outputs = np.array(studies.taxonomy.label_indices)
    outputs[2], outputs[3:] = -1, 0
    model = stage.restore(tmp_path)
    model.outputs_of = lambda _: outputs
    score_classifier(tmp_path, classifier=tmp_path, splits={"valid": folder})
    scores = json.loads((tmp_path / "auroc.json").read_text())["valid"]
    expected = by_hand(studies)
    expected[2] = np.nan
    assert scores == studies.taxonomy.named(expected)


@pytest.mark.parametrize("changes", [{}, {"decay": True, "warmup_share": 0.25}])
def test_an_epoch_takes_each_image_once_at_the_configured_rate(valid, tmp_path, monkeypatch, changes):
    studies, folder = valid
    made = train(folder, tmp_path, monkeypatch, **changes)
    assert made.steps == 3 * len(studies) / 2
    names = np.concatenate([next(made.batches)["id"] for _ in range(len(studies) // 2)])
    assert sorted(names) == sorted(studies.ids)
    params, state, rates = jnp.zeros(()), made.optimizer.init(jnp.zeros(())), []
    for _ in range(made.steps):
        updates, state = made.optimizer.update(jnp.ones(()), state, params)
        rates.append(-float(updates))
    if changes:
        assert (rates[0], np.argmax(rates)) == (0, made.steps // 4)
        assert rates[-1] < 0.01
    else:
        np.testing.assert_allclose(rates, 0.1, rtol=1e-4)


class Grey(nn.Module):
    """The logit of every label is a multiple of the mean grey value."""

    @nn.compact
    def __call__(self, images, train=False):
        return images.mean((1, 2))[:, :1] * self.param("slope", nn.initializers.ones, (14,)), {}


@pytest.mark.parametrize("augmented", [True, False])
def test_the_loss_is_the_weighted_cross_entropy_on_normalised_images(augmented):
    rng, slope = np.random.default_rng(0), jnp.linspace(-1, 1, 14)
    images = jnp.asarray(rng.integers(0, 256, (4, 16, 16), dtype=np.uint8))
    targets, weights = (jnp.asarray(rng.integers(0, 2, (4, 14)), jnp.float32) for _ in range(2))
    keys = jax.random.split(jax.random.key(0), 4)
    loss = classifier_loss(Grey(), CHEXPERT, augmented=augmented)
    sharded = jax.shard_map(
        lambda batch, keys: jax.lax.pmean(loss({"slope": slope}, {}, batch, keys)[0], DATA_AXIS),
        mesh=data_mesh(),
        in_specs=P(DATA_AXIS),
        out_specs=P(),
    )
    value = jax.jit(sharded)({"image": images, "targets": targets, "weights": weights}, keys)
    if augmented:
        images, _ = augment(keys, images)
    logits = normalise(images, CHEXPERT).mean((1, 2))[:, :1] * slope
    np.testing.assert_allclose(value, bce_loss(logits, targets, weights), rtol=1e-5)
