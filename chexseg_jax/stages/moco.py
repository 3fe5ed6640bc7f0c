"""Stages: an encoder trained on radiographs without labels (MoCo v2), and the linear probe that judges one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.artifact import artifact, plain
from chexseg_jax.data import chexpert
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import ImageSource, Prepared, task_labels
from chexseg_jax.data.taxonomy import TASKS, label_indices
from chexseg_jax.data.transforms import view
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.auroc import auroc
from chexseg_jax.evaluation.probe import PENALTIES, apply_probe, fit_probe
from chexseg_jax.models import moco
from chexseg_jax.models.layers import at_least_float32
from chexseg_jax.models.normalisation import CHEXPERT, Normalisation, normalise
from chexseg_jax.saved_model import Restored, restore, save_model
from chexseg_jax.stages.classifier import init
from chexseg_jax.stages.segmentation import from_start, stride_of
from chexseg_jax.training import optim
from chexseg_jax.training.inference import map_batches
from chexseg_jax.training.loop import Init, Loss, fit
from chexseg_jax.training.profiling import Profile
from chexseg_jax.training.sharding import DATA_AXIS


def pretrain_moco(
    store: Path,
    config: ConfigDict,
    *,
    images: Path,
    start: Path | None = None,
    seed: int,
    profile: Profile = Profile(),
) -> Path:
    """Trains an encoder to tell two views of one radiograph from the views of others. Keeps the last state.

    Args:
      store: the folder of artifacts.
      config: `model`, `options`, `batch_size`, `epochs`, `learning_rate`, `momentum` and `weight_decay` (of SGD),
        `queue` (a multiple of the batch), `key_momentum`, `temperature`, `crop` (a view's smallest share of the
        area), `size` (of a view, in pixels), `norm_group` (images a batch statistic is over), `checkpoint_every`.
      images: artifact of `prepare`; its labels are not looked at.
      start: an artifact with the same ResNet, such as of `import_imagenet`, whose weights, normalisation and stride
        placement are gone on from, as MoCo-CXR does from ImageNet's; None starts from random weights.
      seed: of weights, order and views.
      profile: what is looked into as it trains; of no influence on the artifact's name.

    Returns:
      The artifact: a model without a head that `chexseg_jax.restore` opens.
    """
    key = {"config": config, "images": images.name, "start": start and start.name, "seed": seed}

    def make(part: Path) -> None:
        if config.queue % config.batch_size:
            raise InputError(
                f"moco: queue {config.queue} is not a multiple of batch size {config.batch_size}"
            )
        train = Prepared.load(images)
        before = restore(start) if start else None
        by = before.normalisation if before else CHEXPERT
        options = plain(config.options) | (stride_of(before) if before else {})
        embedder = moco.Embedder(models.create(config.model, num_classes=0, **options))
        steps = max(1, round(config.epochs * len(train) / config.batch_size))
        state = fit(
            f"moco {config.model}",
            init=moco_init(embedder, train.size, queue=config.queue, start=before),
            loss=moco_loss(
                embedder,
                by,
                temperature=config.temperature,
                key_momentum=config.key_momentum,
                norm_group=config.norm_group,
                crop=config.crop,
                size=config.size,
            ),
            optimizer=optim.sgd_cosine(
                config.learning_rate,
                steps=steps,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            ),
            batches=batches(shuffled(ImageSource(train.images), seed=seed), batch_size=config.batch_size),
            batch_size=config.batch_size,
            steps=steps,
            seed=seed,
            directory=part,
            checkpoint_every=config.checkpoint_every,
            profile=profile,
        )
        save_model(
            part,
            {name: state.variables[name]["encoder"] for name in ("params", "batch_stats")},
            name=config.model,
            num_classes=0,
            options=options,
            size=train.size,
            tasks=(),
            normalisation=by,
            config=plain(config),
        )

    return artifact(store, f"moco-{config.model}", key, make, collective=True)


def moco_init(embedder: nn.Module, size: int, *, queue: int, start: Restored | None = None) -> Init:
    """Query parameters; and as model state the momentum encoder (equal at first), an empty queue, the keys seen."""
    begin = from_start(embedder, size, start)

    def initial(key: jax.Array) -> tuple[Any, Any]:
        params, state = begin(key)
        twin = jax.tree.map(
            jnp.copy, {"params": params, **state}
        )  # the step donates its buffers: no two may be one
        return params, {
            **state,
            "key": twin,
            "queue": jnp.zeros((queue, moco.DIMENSIONS)),
            "seen": jnp.zeros((), jnp.int32),
        }

    return initial


def moco_loss(
    embedder: nn.Module,
    by: Normalisation,
    *,
    temperature: float,
    key_momentum: float,
    norm_group: int,
    crop: float,
    size: int,
) -> Loss:
    """InfoNCE of a batch {"image"}; moves the momentum encoder first and enqueues the keys of all devices.

    The keys' images are shuffled over the global batch (MoCo's shuffled BatchNorm), so that groups, and with them
    the loss, are the same on any number of devices.
    """

    def views(keys, images):
        return normalise(jax.vmap(lambda k, x: view(k, x, crop=crop, size=size))(keys, images), by)

    def loss(params, state, batch, keys):
        count, devices = len(keys), jax.lax.axis_size(DATA_AXIS)
        if count % norm_group or devices * count < 2 * norm_group:
            raise InputError(
                f"moco: {count} images on each of {devices} devices do not make whole groups of "
                f"norm_group={norm_group}, two or more in all; take a larger batch or smaller groups"
            )
        place = jax.lax.axis_index(DATA_AXIS) * count
        draws = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        order = jnp.argsort(_everywhere(jax.vmap(jax.random.bits)(draws[:, 2])))
        mine = jax.lax.dynamic_slice(order, (place,), (count,))
        shuffled = (  # bytes travel, not views
            jax.lax.all_gather(x, DATA_AXIS, tiled=True)[mine] for x in (draws[:, 1], batch["image"])
        )
        moving = jax.tree.map(
            lambda k, q: key_momentum * k + (1 - key_momentum) * jax.lax.stop_gradient(q),
            state["key"]["params"],
            params,
        )
        queries, statistics = moco.embed_in_groups(
            embedder,
            {"params": params, "batch_stats": state["batch_stats"]},
            views(draws[:, 0], batch["image"]),
            size=norm_group,
        )
        embedded, key_statistics = moco.embed_in_groups(
            embedder,
            {"params": moving, "batch_stats": state["key"]["batch_stats"]},
            views(*shuffled),
            size=norm_group,
        )
        everywhere = jax.lax.stop_gradient(_everywhere(embedded)[jnp.argsort(order)])
        positives = jax.lax.dynamic_slice(everywhere, (place, 0), embedded.shape)
        value, top1 = moco.info_nce(
            queries, positives, state["queue"], state["seen"], temperature=temperature
        )

        queue = jax.lax.dynamic_update_slice(
            state["queue"], everywhere, (state["seen"] % len(state["queue"]), 0)
        )
        statistics, key_statistics = jax.lax.pmean((statistics, key_statistics), DATA_AXIS)
        new = {
            "batch_stats": statistics,
            "key": {"params": moving, "batch_stats": key_statistics},
            "queue": queue,
            "seen": state["seen"] + devices * count,
        }
        return value, (new, {"top1": top1})

    return loss


def _everywhere(x: jax.Array) -> jax.Array:
    """The rows of all devices. JAX knows that a sum is the same on all, as a replicated queue must be, so it is one."""
    place = (jax.lax.axis_index(DATA_AXIS) * len(x), *(0,) * (x.ndim - 1))
    zeros = jnp.zeros((jax.lax.axis_size(DATA_AXIS) * len(x), *x.shape[1:]), x.dtype)
    return jax.lax.psum(jax.lax.dynamic_update_slice(zeros, x, place), DATA_AXIS)


def probe_encoder(
    store: Path,
    *,
    encoder: Path | None,
    network: ConfigDict,
    uncertainty: str,
    train: Path,
    splits: Mapping[str, Path],
    seed: int,
) -> Path:
    """Linear-probe AUROC: logistic regressions on frozen mean features, trained on `train`'s image labels.

    The penalty is the one of `PENALTIES` with the best mean AUROC on the first of `splits`.

    Args:
      store: the folder of artifacts.
      encoder: a model with a last feature map; None for random weights, the yardstick.
      network: `model` and `options` of the network where `encoder` is None.
      uncertainty: the policy for labels of -1.
      train: artifact of `prepare` to fit on.
      splits: name -> artifact of `prepare` to score on; the first chooses the penalty.
      seed: of the random weights.

    Returns:
      The artifact: `auroc.json`, {split: {task: AUROC, or None}}, as of `score_classifier`.
    """
    key = {
        "encoder": encoder.name if encoder else [network.model, network.options, seed],
        "uncertainty": uncertainty,
        "train": train.name,
        "splits": {name: path.name for name, path in splits.items()},
    }

    def make(part: Path) -> None:
        sets = {"train": Prepared.load(train), **{name: Prepared.load(path) for name, path in splits.items()}}
        if encoder:
            trained = restore(encoder)
            module, variables, by = trained.module, trained.variables, trained.normalisation
        else:
            module, by = models.create(network.model, num_classes=0, **network.options), CHEXPERT
            params, state = init(module, sets["train"].size)(jax.random.key(seed))
            variables = {"params": params, **state}
        features = {name: mean_features(module, variables, by, split) for name, split in sets.items()}
        mean, std = features["train"].mean(0), features["train"].std(0) + 1e-6
        for x in features.values():  # in place: of a whole CheXpert they are gigabytes
            x -= mean
            x /= std
        targets, weights = (
            x[:, label_indices()] for x in chexpert.targets(sets["train"].labels, uncertainty)
        )
        judge = next(iter(splits))
        best: tuple[float, dict[str, np.ndarray]] = (-1.0, {})
        for penalty in PENALTIES:
            probe = fit_probe(features["train"], targets, weights, penalty=penalty)
            values = {
                name: auroc(apply_probe(features[name], probe), task_labels(sets[name].labels))
                for name in splits
            }
            best = max(best, (float(np.nanmean(values[judge])), values), key=lambda scored: scored[0])
        scores = {
            name: {
                task: None if np.isnan(v) else round(float(v), 4) for task, v in zip(TASKS, row, strict=True)
            }
            for name, row in best[1].items()
        }
        (part / "auroc.json").write_text(json.dumps(scores, indent=1))

    return artifact(store, "probe", key, make)


def mean_features(
    module: nn.Module, variables: Mapping[str, Any], by: Normalisation, images: Prepared
) -> Float[np.ndarray, "N d"]:
    """The last feature map's mean over pixels, in inference mode."""

    def features(variables, batch):
        _, out = module.apply(variables, normalise(batch["image"], by))
        return at_least_float32(out["features"]).mean((1, 2))

    found, done = None, 0
    for some in map_batches(features, variables, ImageSource(images.images), batch_size=32, what="features"):
        found = np.empty((len(images), some.shape[1]), some.dtype) if found is None else found
        found[done : done + len(some)] = some
        done += len(some)
    return found
