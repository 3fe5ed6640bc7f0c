"""MoCo's training on a tiny network: what its state holds, and that none of it is lost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import linen as nn
from golden.peers import peer
from ml_collections import ConfigDict

from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.taxonomy import CHEXPERT as TAXONOMY
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.auroc import auroc
from chexseg_jax.evaluation.probe import PENALTIES, apply_probe, fit_probe
from chexseg_jax.models.layers import BatchNorm, Conv
from chexseg_jax.models.moco import Embedder
from chexseg_jax.models.normalisation import CHEXPERT, IMAGENET
from chexseg_jax.models.zoo import ENCODERS
from chexseg_jax.saved_model import restore, save_model
from chexseg_jax.stages import moco
from chexseg_jax.stages.moco import moco_init, moco_loss
from chexseg_jax.training import optim
from chexseg_jax.training.loggers import read_metrics
from chexseg_jax.training.loop import fit
from chexseg_jax.training.sharding import data_mesh
from chexseg_jax.training.state import TrainState

BATCH, QUEUE = 16, 64
ROWS, COLUMNS = np.mgrid[:16, :16]
#: Waves of 64 directions and lengths.
IMAGES = np.stack(
    [127 + 120 * np.sin(a * ROWS / 4 + b * COLUMNS / 4) for a in range(8) for b in range(8)]
).astype(np.uint8)


class Tiny(nn.Module):
    """One convolution and its normalisation: enough of an encoder."""

    @nn.compact
    def __call__(self, images, train=False):
        return None, {"features": BatchNorm()(Conv(16, 3, 2)(images), train, relu=True)}


class Plain(nn.Module):
    """An encoder without batch normalisation."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        return None, {"features": nn.relu(Conv(16, 3, 2)(images))}


def train(directory, steps, *, checkpoint_every=100, norm_group=4, devices=2):
    embedder = Embedder(Tiny())
    return fit(
        "moco",
        init=moco_init(embedder, 16, queue=QUEUE),
        loss=moco_loss(
            embedder, CHEXPERT, temperature=0.2, key_momentum=0.9, norm_group=norm_group, crop=0.8, size=16
        ),
        optimizer=optim.sgd_cosine(0.03, steps=300),
        batches=batches(shuffled(Examples(image=IMAGES), seed=0), batch_size=BATCH),
        batch_size=BATCH,
        steps=steps,
        seed=0,
        directory=directory,
        checkpoint_every=checkpoint_every,
        mesh=data_mesh(jax.devices()[:devices]),
    )


def test_queue_momentum_encoder_and_order_survive_a_stop_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole", 7)
    train(tmp_path / "cut", 3, checkpoint_every=3)
    resumed = train(tmp_path / "cut", 7)
    assert int(whole.model_state["seen"]) == 7 * BATCH
    for ours, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_queue_takes_a_batch_a_step_and_forgets_the_oldest(tmp_path):
    one, two, five = (train(tmp_path / str(n), n).model_state["queue"] for n in (1, 2, 5))
    np.testing.assert_allclose(np.linalg.norm(five, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(one[:BATCH], two[:BATCH])
    assert not one[BATCH:].any()
    assert not two[2 * BATCH :].any()
    np.testing.assert_array_equal(two[BATCH : 2 * BATCH], five[BATCH : 2 * BATCH])
    assert not np.allclose(two[:BATCH], five[:BATCH])


def test_the_momentum_encoder_follows_the_query_encoder(tmp_path):
    embedder = Embedder(Tiny())
    params, start = moco_init(embedder, 16, queue=QUEUE)(jax.random.split(jax.random.key(0))[0])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, start["key"]["params"]))
    one, two = (train(tmp_path / str(n), n) for n in (1, 2))
    # The keys' encoder moves before each step: in the second, a tenth of the way to where the first had gone.
    expected = jax.tree.map(lambda k, q: 0.9 * k + 0.1 * q, one.model_state["key"]["params"], one.params)
    ours = two.model_state["key"]["params"]
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-6), ours, expected))


def test_it_learns_to_tell_images_apart(tmp_path):
    train(tmp_path, 300)
    last = read_metrics(tmp_path / "metrics.jsonl")[-10:]
    assert np.mean([line["loss"] for line in last]) < np.log(QUEUE + 1) - 1
    assert np.mean([line["top1"] for line in last]) > 0.1  # chance is 1 / 65


@pytest.mark.parametrize("devices", [1, 2])
def test_half_a_group_on_a_device_or_one_in_all_is_refused(devices, tmp_path):
    with pytest.raises(InputError, match="norm_group=16"):
        train(tmp_path, 1, norm_group=16, devices=devices)


def pretrain(folder, model, start=None):
    """Pretrain an encoder on `IMAGES`, and return its folder."""
    images, encoder = folder / "images", folder / "encoder"
    images.mkdir()
    encoder.mkdir()
    count = len(IMAGES)
    labels, sizes = np.zeros((count, len(TAXONOMY.labels)), np.float32), np.full((count, 2), 16, np.int32)
    Prepared(tuple(map(str, range(count))), IMAGES, labels, sizes, TAXONOMY).save(images)
    config = {"options": {}, "batch_size": 16, "epochs": 1.0, "learning_rate": 0.03, "momentum": 0.9}
    config |= {
        "weight_decay": 0.0,
        "queue": 32,
        "key_momentum": 0.9,
        "temperature": 0.2,
        "crop": 0.5,
        "size": 16,
    }
    config |= {"norm_group": 2, "checkpoint_every": 10}
    moco.pretrain_moco(encoder, config=ConfigDict(config), model=model, images=images, start=start, seed=0)
    return encoder


def test_a_start_brings_its_weights_normalisation_and_stride(tmp_path, monkeypatch):
    def untrained(_, *, init, **__):
        params, model_state = init(jax.random.key(0))
        return TrainState(0, params, model_state, None)

    monkeypatch.setattr(moco, "fit", untrained)
    (tmp_path / "start").mkdir()
    old = peer("resnet18")
    card = {"name": "resnet18", "num_classes": 14, "options": {"stride_on": "conv1"}, "size": 16}
    save_model(tmp_path / "start", old.variables, tasks=(), normalisation=IMAGENET, **card)
    made = restore(pretrain(tmp_path, "resnet18", start=tmp_path / "start"))
    assert made.normalisation == IMAGENET
    assert made.config.options.stride_on == "conv1"
    for layer, value in made.variables["params"].items():
        jax.tree.map(np.testing.assert_array_equal, value, old.variables["params"][layer])


def test_an_encoder_without_batch_normalisation_trains_and_is_saved(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "plain", Plain)
    made = restore(pretrain(tmp_path, "plain"))
    assert made.variables.keys() == {"params"}
    start, _ = moco_init(Embedder(Plain(0)), 16, queue=32)(jax.random.split(jax.random.key(0))[0])
    before, after = start["encoder"]["Conv_0"]["kernel"], made.variables["params"]["Conv_0"]["kernel"]
    assert before.shape == after.shape
    assert not np.allclose(before, after)


def test_query_and_key_are_two_views(tmp_path, monkeypatch):
    """With views that show nothing of their radiograph, a query does not find its key; in one view, it would."""
    monkeypatch.setattr(moco, "view", lambda key, image, **_: 255 * jax.random.uniform(key, image.shape))
    embedder = Embedder(Plain(0))
    loss = moco_loss(embedder, CHEXPERT, temperature=0.2, key_momentum=0.9, norm_group=2, crop=0.8, size=16)
    stream = batches(shuffled(Examples(image=IMAGES), seed=0), batch_size=BATCH)
    settings = {"optimizer": optim.sgd_cosine(1e-6, steps=10), "batch_size": BATCH, "checkpoint_every": 10}
    fit(
        "moco",
        init=moco_init(embedder, 16, queue=QUEUE),
        loss=loss,
        batches=stream,
        steps=10,
        seed=0,
        directory=tmp_path,
        **settings,
    )
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["top1"] < 0.3


def test_the_probe_is_fitted_on_standardised_features_and_the_first_split_chooses_its_penalty(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(ENCODERS, "tiny", tiny.Tiny)
    rng, count, width = np.random.default_rng(0), 60, 40
    scales, labels = np.logspace(-2, 2, width), rng.choice([0, 1, -1], (3, count, 14)).astype(np.float32)
    signal = np.where(labels == 1, 1, -1) @ rng.normal(size=(14, width))
    features = ((signal + 8 * rng.normal(size=signal.shape)) * scales + 3 * scales).astype(np.float32)
    names = ("train", "valid", "test")
    for name, values in zip(names, labels, strict=True):
        (tmp_path / name).mkdir()
        Prepared(
            tuple(map(str, range(count))), IMAGES[:count], values, np.full((count, 2), 16), TAXONOMY
        ).save(tmp_path / name)
    order = iter(features.copy())
    monkeypatch.setattr(moco, "mean_features", lambda *_: next(order))
    moco.probe_encoder(
        tmp_path,
        encoder=None,
        random=ConfigDict({"model": "tiny", "options": {}, "seed": 0}),
        uncertainty="ignore",
        train=tmp_path / "train",
        splits={name: tmp_path / name for name in names[1:]},
    )
    z = (features - features[0].mean(0)) / features[0].std(0)
    columns = [TAXONOMY.labels.index(TAXONOMY.label(task)) for task in TAXONOMY.tasks]
    own = labels[..., columns]
    found = []
    for penalty in PENALTIES:
        probe = fit_probe(
            z[0], (own[0] == 1).astype(np.float32), (own[0] != -1).astype(np.float32), penalty=penalty
        )
        found.append([auroc(apply_probe(x, probe), y) for x, y in zip(z[1:], own[1:], strict=True)])
    means = np.mean(found, axis=2)
    best = means[:, 0].argmax()
    assert best > 0  # not just the first
    scores = json.loads((tmp_path / "auroc.json").read_text())
    for name, values in zip(names[1:], found[best], strict=True):
        assert scores[name] == pytest.approx(dict(zip(TAXONOMY.tasks, values, strict=True)), abs=0.005)
    assert np.abs(means[best] - np.delete(means, best, 0)).min() > 1e-3


def test_a_probe_without_labels_to_choose_by_takes_the_first_penalty(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "tiny", tiny.Tiny)
    count = len(IMAGES)
    labels = np.zeros((count, len(TAXONOMY.labels)), np.float32)
    labels[::2] = 1
    sizes, ids = np.full((count, 2), 16, np.int32), tuple(map(str, range(count)))
    for name, values in (("train", labels), ("unlabelled", 0 * labels)):
        (tmp_path / name).mkdir()
        Prepared(ids, IMAGES, values, sizes, TAXONOMY).save(tmp_path / name)
    moco.probe_encoder(
        tmp_path,
        encoder=None,
        random=ConfigDict({"model": "tiny", "options": {}, "seed": 0}),
        uncertainty="ignore",
        train=tmp_path / "train",
        splits={"valid": tmp_path / "unlabelled", "test": tmp_path / "train"},
    )
    scores = json.loads((tmp_path / "auroc.json").read_text())
    assert scores["valid"] == dict.fromkeys(TAXONOMY.tasks)
    assert all(value > 0.5 for value in scores["test"].values())
