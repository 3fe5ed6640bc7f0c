"""Stages: a multi-label classifier of the image labels (source of saliency maps, and an encoder), and its AUROC."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.artifact import plain
from chexseg_jax.data import chexpert
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.provenance import UNKNOWN, Provenance
from chexseg_jax.data.reference import fit_reference
from chexseg_jax.data.transforms import augment
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.auroc import auroc
from chexseg_jax.evaluation.iou import mean
from chexseg_jax.models.normalisation import CHEXPERT, Normalisation, normalise
from chexseg_jax.saved_model import initialise_from, restore, save_model, stride_option
from chexseg_jax.training import losses, optim
from chexseg_jax.training.inference import make_inference, map_batches
from chexseg_jax.training.loop import Apart, Loss, fit
from chexseg_jax.training.sharding import DATA_AXIS


def train_classifier(
    part: Path,
    *,
    config: ConfigDict,
    uncertainty: str,
    weak: Path,
    expert: Path,
    start: Path | None,
    seed: int,
    provenance: Provenance = UNKNOWN,
    **apart: Unpack[Apart],
) -> None:
    """Train on the weak labels; keep the checkpoint with the best mean AUROC of the tasks on `expert`.

    The last is kept if no task has both labels there.

    Args:
      part: the artifact's folder; it receives a model that `chexseg_jax.restore` opens.
      config: `model`, `options`, `epochs`, `batch_size`, `learning_rate`, `warmup_share`, `decay`, `augment`,
        `checkpoint_every`.
      uncertainty: the policy for uncertain and blank labels, see `chexpert.targets`.
      weak, expert: prepared sets; the labels of `expert` choose the checkpoint.
      start: a saved model of the same network to initialise from, such as ImageNet's; None for random weights.
      seed: of weights, order and augmentation.
      provenance: of the data, for the record.
      **apart: see `training.loop.Apart`.

    Raises:
      InputError: if the policy ignores all labels: the loss would be 0.
    """
    train, validation = Prepared.load(weak), Prepared.load(expert)
    old = restore(start) if start else None
    options = plain(config.options) | stride_option(old)
    labels = train.taxonomy.labels
    targets, weights = chexpert.targets(train.labels, uncertainty, train.taxonomy)
    if not weights.any():
        raise InputError(
            f"no train image has a label that config.data.uncertainty={uncertainty!r} does not ignore: there is "
            "nothing to train on; give labels"
        )
    examples = Examples(image=train.images, targets=targets, weights=weights, id=np.array(train.ids))
    module = models.create(config.model, num_classes=len(labels), axis_name=DATA_AXIS, **options)
    steps = max(1, round(config.epochs * len(examples) / config.batch_size))
    infer, outputs = logits_of(module, CHEXPERT), np.array(train.taxonomy.label_indices)
    state = fit(
        f"classifier {config.model}",
        init=initialise_from(old, module, train.size),
        loss=classifier_loss(module, CHEXPERT, augmented=config.augment),
        optimizer=optim.adam(
            config.learning_rate,
            warmup_steps=round(config.warmup_share * steps),
            decay_steps=steps if config.decay else 0,
        ),
        batches=batches(shuffled(examples, seed=seed), batch_size=config.batch_size),
        batch_size=config.batch_size,
        steps=steps,
        seed=seed,
        directory=part,
        checkpoint_every=config.checkpoint_every,
        evaluate=lambda variables: {"auroc": float(mean(task_aurocs(infer, variables, validation, outputs)))},
        best="auroc",
        **apart,
    )
    save_model(
        part,
        state.variables,
        name=config.model,
        num_classes=len(labels),
        options=options,
        size=train.size,
        tasks=labels,
        normalisation=CHEXPERT,
        taxonomy=train.taxonomy,
        config=plain(config),
        provenance=provenance,
        reference=fit_reference([train]),
    )


def score_classifier(part: Path, *, classifier: Path, splits: Mapping[str, Path]) -> None:
    """Score the image labels by AUROC.

    Args:
      part: receives `auroc.json`, {split: {task: AUROC, or None for a task without both labels in the split}}.
      classifier: a saved classifier; a task for which it has no output has no AUROC.
      splits: name -> prepared set.
    """
    model = restore(classifier)
    infer = logits_of(model.module, model.normalisation)
    scores = {}
    for name, path in splits.items():
        images = Prepared.load(path)
        outputs = model.outputs_of(images.taxonomy)
        scores[name] = images.taxonomy.named(task_aurocs(infer, model.variables, images, outputs))
    (part / "auroc.json").write_text(json.dumps(scores, indent=1))


def classifier_loss(module: nn.Module, normalisation: Normalisation, *, augmented: bool) -> Loss:
    """Weighted sigmoid BCE of a batch {"image", "targets", "weights"}."""

    def loss(params, model_state, batch, keys):
        images = augment(keys, batch["image"])[0] if augmented else batch["image"]
        (logits, _), updated = module.apply(
            {"params": params, **model_state},
            normalise(images, normalisation),
            train=True,
            mutable=["batch_stats"],
        )
        return losses.bce_loss(logits, batch["targets"], batch["weights"], DATA_AXIS), (updated, {})

    return loss


def task_aurocs(
    infer: Callable,
    variables: Mapping[str, Any],
    images: Prepared,
    outputs: Int[np.ndarray, " K"],
    *,
    batch_size: int = 32,
) -> Float[np.ndarray, " K"]:
    """AUROC of the tasks by the labels of `images`; nan for a task without both labels or without an output.

    Args:
      infer: (variables, {"image"}) -> logits [B,L].
      variables: of the classifier.
      images: with their labels.
      outputs: that of each task, or -1, see `Restored.outputs_of`.
      batch_size: images at a time.
    """
    batched = map_batches(infer, variables, Examples(image=images.images), batch_size=batch_size)
    logits = np.concatenate(list(batched))
    return np.where(outputs >= 0, auroc(logits[:, outputs], images.task_labels), np.nan)


def logits_of(module: nn.Module, normalisation: Normalisation) -> Callable:
    """The jitted inference of a classifier's logits from grey bytes."""
    return make_inference(
        lambda variables, batch: module.apply(variables, normalise(batch["image"], normalisation))[0]
    )
