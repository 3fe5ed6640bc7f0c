"""Stage: DeepLabv3+ on the p-mixture of expert masks and pseudo-masks."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Int
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.artifact import artifact, plain
from chexseg_jax.data.images import unpack_masks
from chexseg_jax.data.mixture import mixture
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import MaskSource, Prepared
from chexseg_jax.data.taxonomy import COMMON_TASKS, TASKS
from chexseg_jax.data.transforms import augment
from chexseg_jax.data.transforms import unpack_masks as unpack_on_device
from chexseg_jax.models.encoders import with_encoder
from chexseg_jax.models.normalisation import IMAGENET, Normalisation, normalise
from chexseg_jax.processes import on_first
from chexseg_jax.progress import say
from chexseg_jax.saliency.thresholds import GRID, best_thresholds, pooled_iou, threshold_counts
from chexseg_jax.saved_model import Restored, restore, save_model
from chexseg_jax.stages.cams import digest
from chexseg_jax.stages.classifier import init
from chexseg_jax.training import losses, optim
from chexseg_jax.training.inference import map_batches, probabilities_of
from chexseg_jax.training.loop import Init, Loss, fit
from chexseg_jax.training.profiling import Profile
from chexseg_jax.training.sharding import DATA_AXIS

#: The published choice: 1e-3 on small sets, 1e-4 on large; "large" begins here, in images.
_LARGE_SET = 1000


def train_segmentation(
    store: Path,
    config: ConfigDict,
    *,
    p: float,
    expert: Path,
    train_rows: Sequence[int],
    validation_rows: Sequence[int],
    pseudo: Path | None,
    start: Path | None,
    seed: int,
    profile: Profile = Profile(),
) -> Path:
    """Trains on the mixture; keeps the checkpoint with the best mIoU of the common tasks on the validation images.

    Where the radiologists did not draw all of these there, it is the mIoU of all that they drew.

    Thresholds on the probability are then chosen per task from {0, .05, ..., .95} on the expert training images.

    Args:
      store: the folder of artifacts.
      config: `model`, `options`, `steps`, `batch_size`, `learning_rate` (0: 1e-3 on small sets, 1e-4 on large),
        `warmup_share`, `decay`, `augment`, `checkpoint_every`.
      p: probability of an expert example.
      expert, train_rows, validation_rows: the annotated images, and their split.
      pseudo: artifact of `make_pseudo_masks`; None for p = 1.
      start: what it goes on from: an artifact of this stage, with the same network; or one with the same ResNet, of
        `train_classifier`, `pretrain_moco` or `import_imagenet`, as the encoder. Weights, normalisation and stride
        placement are taken from it; None starts from random weights.
      seed: of weights, mixture, order and augmentation.
      profile: what is looked into as it trains; of no influence on the artifact's name.

    Returns:
      The artifact: a model that `chexseg_jax.restore` opens, its thresholds included.
    """
    key = {
        "config": config,
        "p": p,
        "expert": [expert.name, digest(train_rows), digest(validation_rows)],
        "pseudo": pseudo and pseudo.name,
        "start": start and start.name,
        "seed": seed,
    }

    def make(part: Path) -> None:
        annotated = Prepared.load(expert)
        train, validation = annotated.take(train_rows), annotated.take(validation_rows)
        weak = Prepared.load(pseudo) if pseudo else None
        images = (len(train) if p > 0 else 0) + (len(weak) if weak is not None else 0)
        stream = mixture(MaskSource(train), MaskSource(weak) if weak is not None else None, p=p, seed=seed)
        old = restore(start) if start else None
        by = old.normalisation if old else IMAGENET
        options = plain(config.options) | (stride_of(old) if old else {})
        module = models.create(config.model, num_classes=len(TASKS), axis_name=DATA_AXIS, **options)
        infer = probabilities_of(module, by)
        learning_rate = config.learning_rate or (1e-3 if images < _LARGE_SET else 1e-4)
        state = fit(
            f"segmentation p={p:g}",
            init=from_start(module, train.size, old),
            loss=segmentation_loss(module, by, augmented=config.augment),
            optimizer=optim.adam(
                learning_rate,
                warmup_steps=round(config.warmup_share * config.steps),
                decay_steps=config.steps if config.decay else 0,
            ),
            batches=batches(stream, batch_size=config.batch_size),
            batch_size=config.batch_size,
            steps=config.steps,
            seed=seed,
            directory=part,
            checkpoint_every=config.checkpoint_every,
            evaluate=_evaluation(infer, validation),
            best="miou",
            profile=profile,
        )
        intersections, unions = task_counts(infer, state.variables, train)
        iou = pooled_iou(intersections, unions)
        iou[:, ~train.shown().any(0)] = np.nan
        thresholds = dict(zip(TASKS, map(float, best_thresholds(iou, fallback=0.5)), strict=True))
        save_model(
            part,
            state.variables,
            name=config.model,
            num_classes=len(TASKS),
            options=options,
            size=train.size,
            tasks=TASKS,
            normalisation=by,
            thresholds=thresholds,
            config={**plain(config), "p": p, "seed": seed},
        )
        on_first((part / "thresholds.json").write_text, json.dumps(thresholds, indent=1))

    return artifact(store, "segmentation", key, make, collective=True)


@lru_cache(maxsize=4)
def segmentation_loss(module: nn.Module, by: Normalisation, *, augmented: bool) -> Loss:
    """Class-average dice of a batch {"image", "masks"}. Asked for the same again, it is the same function."""

    def loss(params, model_state, batch, keys):
        images, planes = augment(keys, batch["image"], batch["masks"]) if augmented else batch.values()
        (logits, _), updated = module.apply(
            {"params": params, **model_state},
            normalise(images, by),
            train=True,
            mutable=["batch_stats"],
            # Of the global batch's first example: one key for all devices.
            rngs={"dropout": jax.lax.all_gather(keys, DATA_AXIS, tiled=True)[0]},
        )
        return losses.dice_loss(logits, unpack_on_device(planes), DATA_AXIS), (updated, {})

    return loss


def task_counts(
    infer: Callable, variables: Mapping[str, Any], annotated: Prepared, *, batch_size: int = 16
) -> tuple[Int[np.ndarray, "N T 10"], Int[np.ndarray, "N T 10"]]:
    """Intersections and unions with the masks at every threshold of `GRID`, at the training size."""
    counts, start = [], 0
    for scores in map_batches(infer, variables, MaskSource(annotated), batch_size=batch_size):
        truth = unpack_masks(annotated.masks[start : start + len(scores)])
        counts.append(threshold_counts(scores, truth))
        start += len(scores)
    return tuple(np.concatenate(c) for c in zip(*counts, strict=True))


def stride_of(start: Restored) -> dict[str, str]:
    """The option of a ResNet that belongs to its weights: where a block has its stride."""
    return {key: value for key, value in start.config.options.items() if key == "stride_on"}


def from_start(module: nn.Module, size: int, start: Restored | None) -> Init:
    """Initial variables of a module with a part `encoder`: `start`'s if it has the same parts, or is that part.

    What it does not have, and all where there is none, is random.
    """

    def initial(key: jax.Array) -> tuple[Any, Any]:
        channels = len(start.normalisation.mean) if start else 3
        params, model_state = init(module, size, channels=channels)(key)
        if start is None:
            return params, model_state
        if start.variables["params"].keys() == params.keys():
            return start.variables["params"], {"batch_stats": start.variables["batch_stats"]}
        variables = with_encoder({"params": params, **model_state}, start.variables, head=start.module.head)
        return variables["params"], {"batch_stats": variables["batch_stats"]}

    return initial


def _evaluation(infer: Callable, validation: Prepared) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    shown = validation.shown().any(0)
    judged = [k for k, task in enumerate(TASKS) if task in COMMON_TASKS and shown[k]]
    if len(judged) < len(COMMON_TASKS):
        # Other radiologists, other common tasks: on the NIH sample one heart would choose the checkpoint.
        judged = list(np.flatnonzero(shown))
        say(f"not all common tasks in the validation images; judged by {', '.join(TASKS[k] for k in judged)}")

    def evaluate(variables: Mapping[str, Any]) -> dict[str, float]:
        iou = pooled_iou(*task_counts(infer, variables, validation))[:, judged]
        return {"miou": float(iou.max(0).mean()), "miou_at_half": float(iou[GRID.index(0.5)].mean())}

    return evaluate
