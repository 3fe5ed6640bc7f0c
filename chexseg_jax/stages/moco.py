"""Stages: an encoder trained on radiographs without labels (MoCo v2), and the linear probe that scores an encoder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.artifact import plain
from chexseg_jax.data import chexpert
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.provenance import UNKNOWN, Provenance
from chexseg_jax.data.transforms import view
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation import iou
from chexseg_jax.evaluation.auroc import auroc
from chexseg_jax.evaluation.probe import PENALTIES, apply_probe, fit_probe
from chexseg_jax.models import moco
from chexseg_jax.models.layers import at_least_float32, from_all_devices
from chexseg_jax.models.normalisation import CHEXPERT, Normalisation, normalise
from chexseg_jax.saved_model import Restored, initialise_from, restore, save_model, stride_option
from chexseg_jax.training import optim
from chexseg_jax.training.inference import map_batches
from chexseg_jax.training.loop import Apart, Init, Loss, fit
from chexseg_jax.training.sharding import DATA_AXIS
from chexseg_jax.training.state import initial_variables


def pretrain_moco(
    part: Path,
    *,
    config: ConfigDict,
    model: str,
    images: Path,
    start: Path | None,
    seed: int,
    provenance: Provenance = UNKNOWN,
    **apart: Unpack[Apart],
) -> None:
    """Train an encoder to tell two views of one radiograph from the views of others; keep the last state.

    Args:
      part: the artifact's folder; it receives a model without a head that `chexseg_jax.restore` opens.
      config: `options`, `batch_size`, `epochs`, `learning_rate`, `momentum` and `weight_decay` (of SGD),
        `queue` (a multiple of the batch), `key_momentum`, `temperature`, `crop` (least share of the area in a view),
        `size` (of a view, in pixels), `norm_group` (images that share batch statistics), `checkpoint_every`.
      model: the encoder's name.
      images: prepared set; its labels are not used.
      start: a saved model with the same ResNet to initialise weights, normalisation and stride placement from, as
        MoCo-CXR does from ImageNet's; None for random weights.
      seed: of weights, order and views.
      provenance: of the data, for the record.
      **apart: see `training.loop.Apart`.
    """
    train, before = Prepared.load(images), restore(start) if start else None
    normalisation = before.normalisation if before else CHEXPERT
    options = plain(config.options) | stride_option(before)
    embedder = moco.Embedder(models.create(model, num_classes=0, **options))
    steps = max(1, round(config.epochs * len(train) / config.batch_size))
    state = fit(
        f"moco {model}",
        init=moco_init(embedder, train.size, queue=config.queue, start=before),
        loss=moco_loss(
            embedder,
            normalisation,
            temperature=config.temperature,
            key_momentum=config.key_momentum,
            norm_group=config.norm_group,
            crop=config.crop,
            size=config.size,
        ),
        optimizer=optim.sgd_cosine(
            config.learning_rate, steps=steps, momentum=config.momentum, weight_decay=config.weight_decay
        ),
        batches=batches(
            shuffled(Examples(image=train.images, id=np.array(train.ids)), seed=seed),
            batch_size=config.batch_size,
        ),
        batch_size=config.batch_size,
        steps=steps,
        seed=seed,
        directory=part,
        checkpoint_every=config.checkpoint_every,
        **apart,
    )
    encoder = {
        name: state.variables[name]["encoder"] for name in ("params", "batch_stats") if state.variables[name]
    }
    save_model(
        part,
        encoder,
        name=model,
        num_classes=0,
        options=options,
        size=train.size,
        tasks=(),
        normalisation=normalisation,
        taxonomy=train.taxonomy,
        config=plain(config),
        provenance=provenance,
    )


def check_groups(batch_size: int, devices: int, norm_group: int) -> None:
    """Refuse a batch that does not form whole groups with batch statistics of their own.

    Raises:
      InputError: naming the settings; also for a single group, whose keys need no shuffling that could hide them.
    """
    count = batch_size // devices
    if count % norm_group or batch_size < 2 * norm_group:
        raise InputError(
            f"moco: {count} images on each of {devices} devices must form at least two whole groups of "
            f"norm_group={norm_group}; give a larger config.moco.batch_size or a smaller norm_group"
        )


def moco_init(embedder: nn.Module, size: int, *, queue: int, start: Restored | None = None) -> Init:
    """Query parameters and, as model state, the momentum encoder (equal at first), an empty queue, a key count."""
    begin = initialise_from(start, embedder, size)

    def initial(key: jax.Array) -> tuple[Any, Any]:
        params, state = begin(key)
        state = {"batch_stats": {}} | state  # an encoder may have none
        # Copies, because the step donates its buffers.
        twin = jax.tree.map(jnp.copy, {"params": params, **state})
        return params, {
            **state,
            "key": twin,
            "queue": jnp.zeros((queue, moco.DIMENSIONS)),
            "seen": jnp.zeros((), jnp.int32),
        }

    return initial


def moco_loss(
    embedder: nn.Module,
    normalisation: Normalisation,
    *,
    temperature: float,
    key_momentum: float,
    norm_group: int,
    crop: float,
    size: int,
) -> Loss:
    """InfoNCE of a batch {"image"}; updates the momentum encoder first and enqueues the keys of all devices.

    The keys' images are shuffled over the global batch (MoCo's shuffled BatchNorm), so that groups, and therefore the
    loss, are the same on any number of devices.
    """

    def views(keys, images):
        return normalise(jax.vmap(lambda k, x: view(k, x, crop=crop, size=size))(keys, images), normalisation)

    def loss(params, state, batch, keys):
        count, devices = len(keys), jax.lax.axis_size(DATA_AXIS)
        check_groups(devices * count, devices, norm_group)
        place = jax.lax.axis_index(DATA_AXIS) * count
        draws = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
        order = jnp.argsort(from_all_devices(jax.vmap(jax.random.bits)(draws[:, 2]), DATA_AXIS))
        mine = jax.lax.dynamic_slice(order, (place,), (count,))
        shuffled = (  # exchanges bytes, not views
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
        everywhere = jax.lax.stop_gradient(from_all_devices(embedded, DATA_AXIS)[jnp.argsort(order)])
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


def probe_encoder(
    part: Path,
    *,
    encoder: Path | None,
    random: ConfigDict | None,
    uncertainty: str,
    train: Path,
    splits: Mapping[str, Path],
) -> None:
    """Score an encoder by a linear probe: logistic regressions on its frozen mean features, trained on `train`.

    The penalty is the one of `PENALTIES` with the best mean AUROC on the first of `splits`.

    Args:
      part: receives `auroc.json`, as from `score_classifier`.
      encoder: a saved model with a last feature map; None for random weights, for comparison.
      random: `model`, `options` and `seed` of the random network if `encoder` is None.
      uncertainty: the policy for uncertain and blank labels.
      train: prepared set to fit on.
      splits: name -> prepared set to score on; the first chooses the penalty.
    """
    sets = {"train": Prepared.load(train), **{name: Prepared.load(path) for name, path in splits.items()}}
    taxonomy = sets["train"].taxonomy
    if encoder:
        trained = restore(encoder)
        module, variables, normalisation = trained.module, trained.variables, trained.normalisation
    else:
        module, normalisation = models.create(random.model, num_classes=0, **random.options), CHEXPERT
        params, state = initial_variables(module, sets["train"].size)(jax.random.key(random.seed))
        variables = {"params": params, **state}
    features = {name: mean_features(module, variables, normalisation, split) for name, split in sets.items()}
    mean, std = features["train"].mean(0), features["train"].std(0) + 1e-6
    for x in features.values():  # in place: gigabytes for all of CheXpert
        x -= mean
        x /= std
    targets, weights = (
        x[:, taxonomy.label_indices] for x in chexpert.targets(sets["train"].labels, uncertainty, taxonomy)
    )
    judge = next(iter(splits))
    best: tuple[float, dict[str, np.ndarray]] = (-1.0, {})
    for penalty in PENALTIES:
        probe = fit_probe(features["train"], targets, weights, penalty=penalty)
        values = {name: auroc(apply_probe(features[name], probe), sets[name].task_labels) for name in splits}
        score = float(
            np.nan_to_num(iou.mean(values[judge]))
        )  # without both labels of any task, the first penalty
        best = max(best, (score, values), key=lambda scored: scored[0])
    scores = {name: taxonomy.named(values) for name, values in best[1].items()}
    (part / "auroc.json").write_text(json.dumps(scores, indent=1))


def mean_features(
    module: nn.Module, variables: Mapping[str, Any], normalisation: Normalisation, images: Prepared
) -> Float[np.ndarray, "N d"]:
    """The mean over pixels of the last feature map, in inference mode."""

    def features(variables, batch):
        _, out = module.apply(variables, normalise(batch["image"], normalisation))
        return at_least_float32(out["features"]).mean((1, 2))

    batched = map_batches(features, variables, Examples(image=images.images), batch_size=32, what="features")
    return np.concatenate(list(batched))
