"""Stage: a segmentation network trained on the p-mixture of expert masks and pseudo-masks."""

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.artifact import plain
from chexseg_jax.data.mixture import mixture
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.provenance import UNKNOWN, Provenance
from chexseg_jax.data.reference import fit_reference
from chexseg_jax.data.transforms import augment, unpack_masks
from chexseg_jax.models.normalisation import IMAGENET, Normalisation, normalise
from chexseg_jax.processes import on_first
from chexseg_jax.progress import say
from chexseg_jax.saliency.thresholds import GRID, best_thresholds, pooled_iou, threshold_counts
from chexseg_jax.saved_model import initialise_from, restore, save_model, stride_option
from chexseg_jax.training import losses, optim
from chexseg_jax.training.inference import map_batches, probabilities_of
from chexseg_jax.training.loop import Apart, Loss, fit
from chexseg_jax.training.sharding import DATA_AXIS

#: The published rate is 1e-3 on small sets and 1e-4 on large ones: sets of at least so many images.
_LARGE_SET = 1000


def train_segmentation(
    part: Path,
    *,
    config: ConfigDict,
    encoder: str,
    p: float,
    expert: Path,
    train_rows: Int[np.ndarray, " T"],
    validation_rows: Int[np.ndarray, " V"],
    pseudo: Path | None,
    start: Path | None,
    seed: int,
    provenance: Provenance = UNKNOWN,
    **apart: Unpack[Apart],
) -> None:
    """Train on the mixture; keep the checkpoint with the best mIoU of the common tasks on the validation images.

    That mIoU takes each task at its best threshold on the validation images. If they lack masks of a common task, it is
    that of all tasks with masks; without any mask, the last checkpoint is kept. Thresholds on the probability are then
    chosen per task from {0, .05, ..., .95} on the expert training images.

    Args:
      part: the artifact's folder; it receives a model that `chexseg_jax.restore` opens, with thresholds.
      config: `decoder`, `options`, `steps` and `learning_rate` (see `resolve`), `batch_size`, `warmup_share`, `decay`,
        `augment`, `checkpoint_every`.
      encoder: the encoder's name; the network is `DECODER_ENCODER`.
      p: probability of an expert example.
      expert, train_rows, validation_rows: the annotated images, and their split.
      pseudo: pseudo-masked set; None for p = 1.
      start: a saved model to initialise from: of the same network, or of its encoder. Weights, normalisation and
        stride placement are taken from it; None for random weights.
      seed: of weights, mixture, order and augmentation.
      provenance: of the data, for the record.
      **apart: see `training.loop.Apart`.
    """
    annotated = Prepared.load(expert)
    train, validation = annotated.take(train_rows), annotated.take(validation_rows)
    weak = Prepared.load(pseudo) if pseudo else None
    tasks, name = train.taxonomy.tasks, f"{config.decoder}_{encoder}"
    old = restore(start) if start else None
    normalisation = old.normalisation if old else IMAGENET
    options = plain(config.options) | stride_option(old)
    module = models.create(name, num_classes=len(tasks), axis_name=DATA_AXIS, **options)
    infer = probabilities_of(module, normalisation)
    examples = mixture(_examples(train), _examples(weak) if weak is not None else None, p=p, seed=seed)
    state = fit(
        f"segmentation p={p:g}",
        init=initialise_from(old, module, train.size),
        loss=segmentation_loss(module, normalisation, augmented=config.augment),
        optimizer=optim.adam(
            config.learning_rate,
            warmup_steps=round(config.warmup_share * config.steps),
            decay_steps=config.steps if config.decay else 0,
        ),
        batches=batches(examples, batch_size=config.batch_size),
        batch_size=config.batch_size,
        steps=config.steps,
        seed=seed,
        directory=part,
        checkpoint_every=config.checkpoint_every,
        evaluate=_evaluation(infer, validation),
        best="miou",
        **apart,
    )
    thresholds = _choose_thresholds(infer, state.variables, train)
    save_model(
        part,
        state.variables,
        name=name,
        num_classes=len(tasks),
        options=options,
        size=train.size,
        tasks=tasks,
        normalisation=normalisation,
        taxonomy=train.taxonomy,
        thresholds=thresholds,
        config={**plain(config), "p": p, "seed": seed},
        provenance=provenance,
        reference=fit_reference([train] if weak is None else [train, weak]),
    )
    on_first((part / "thresholds.json").write_text, json.dumps(thresholds, indent=1))


def resolve(config: ConfigDict, *, images: int, epoch: int) -> ConfigDict:
    """Replace a section's rules by numbers, so that equal trainings have equal configurations.

    Args:
      config: `steps`, or if that is 0 `epochs`, which is left out; `batch_size`; `learning_rate`, or 0 for the
        published one, 1e-3 on small sets and 1e-4 on large.
      images: number of images drawn from, which decides whether the set is large: expert images (none at p = 0) and
        pseudo-masked images (none at p = 1).
      epoch: number of images in an epoch. The published code counts those drawn from, so 0 < p < 1 has the most
        updates.
    """
    steps = config.steps or max(1, round(config.epochs * math.ceil(epoch / config.batch_size)))
    rate = config.learning_rate or (1e-3 if images < _LARGE_SET else 1e-4)
    kept = {key: value for key, value in config.items() if key != "epochs"}
    return ConfigDict(kept | {"steps": steps, "learning_rate": rate})


@lru_cache(maxsize=4)
def segmentation_loss(module: nn.Module, normalisation: Normalisation, *, augmented: bool) -> Loss:
    """Class-average dice of a batch {"image", "masks", "known"}.

    Cached, so that equal arguments give the same function and the runs of a table share its compilation.
    """

    def loss(params, model_state, batch, keys):
        images, planes = batch["image"], batch["masks"]
        if augmented:
            images, planes = augment(keys, images, planes)
        (logits, _), updated = module.apply(
            {"params": params, **model_state},
            normalise(images, normalisation),
            train=True,
            mutable=["batch_stats"],
            # The key of the global batch's first example, the same on all devices.
            rngs={"dropout": jax.lax.all_gather(keys, DATA_AXIS, tiled=True)[0]},
        )
        masks = unpack_masks(planes, logits.shape[-1])
        return losses.dice_loss(logits, masks, DATA_AXIS, known=batch["known"]), (updated, {})

    return loss


def task_counts(
    infer: Callable, variables: Mapping[str, Any], annotated: Prepared, *, batch_size: int = 16
) -> tuple[Int[np.ndarray, "N T K"], Int[np.ndarray, "N T K"]]:
    """Intersections and unions with the known masks at every threshold of `GRID`, at the training size."""

    # Two programs, so that the first is the one that predicts. At 320 px, 16 images have 65 MB of probabilities, and
    # 26 kB of counts.
    def counts(variables: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[Array, Array]:
        return _mask_counts(infer(variables, {"image": batch["image"]}), batch["masks"], batch["known"])

    examples = Examples(image=annotated.images, masks=annotated.masks, known=annotated.known)
    parts = map_batches(counts, variables, examples, batch_size=batch_size, jitted=True)
    intersections, unions = (np.concatenate(c) for c in zip(*parts, strict=True))
    return intersections, unions


@jax.jit
def _mask_counts(
    scores: Float[Array, "B S S K"], planes: UInt8[Array, "B S S P"], known: Bool[Array, "B K"]
) -> tuple[Int[Array, "B T K"], Int[Array, "B T K"]]:
    return threshold_counts(scores, unpack_masks(planes, scores.shape[-1]), known)


def _examples(images: Prepared) -> Examples:
    return Examples(image=images.images, masks=images.masks, known=images.known, id=np.array(images.ids))


def _choose_thresholds(infer: Callable, variables: Mapping[str, Any], train: Prepared) -> dict[str, float]:
    iou = pooled_iou(*task_counts(infer, variables, train))
    iou[:, ~train.has_mask().any(0)] = np.nan
    return dict(zip(train.taxonomy.tasks, map(float, best_thresholds(iou, fallback=0.5)), strict=True))


def _evaluation(infer: Callable, validation: Prepared) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    tasks, common = validation.taxonomy.tasks, validation.taxonomy.common
    with_mask = np.flatnonzero(validation.has_mask().any(0)).tolist()
    judged = [k for k in with_mask if tasks[k] in common]
    if not judged or len(judged) < len(common):
        # Other data have other common tasks: on the NIH sample a single heart would choose the checkpoint.
        judged = with_mask
        named = ", ".join(tasks[k] for k in judged) or "none"
        say(f"checkpoints are chosen by the tasks with validation masks: {named}")

    def evaluate(variables: Mapping[str, Any]) -> dict[str, float]:
        if not judged:
            return {"miou": math.nan}
        iou = pooled_iou(*task_counts(infer, variables, validation))[:, judged]
        return {"miou": float(iou.max(0).mean()), "miou_at_half": float(iou[GRID.index(0.5)].mean())}

    return evaluate
