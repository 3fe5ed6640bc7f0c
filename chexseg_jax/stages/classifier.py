"""Stage: a multi-label classifier of CheXpert's fourteen labels (the saliency maps' source, and an encoder)."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
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
from chexseg_jax.data.prepared import ImageSource, LabelSource, Prepared, task_labels
from chexseg_jax.data.taxonomy import LABELS, TASKS, label_indices
from chexseg_jax.data.transforms import augment
from chexseg_jax.evaluation.auroc import auroc
from chexseg_jax.models.normalisation import CHEXPERT, Normalisation, normalise
from chexseg_jax.saved_model import restore, save_model
from chexseg_jax.training import losses, optim
from chexseg_jax.training.inference import make_inference, map_batches
from chexseg_jax.training.loop import Init, Loss, fit
from chexseg_jax.training.profiling import Profile
from chexseg_jax.training.sharding import DATA_AXIS


def train_classifier(
    store: Path,
    config: ConfigDict,
    *,
    uncertainty: str,
    weak: Path,
    expert: Path,
    seed: int,
    profile: Profile = Profile(),
) -> Path:
    """Trains on the weak labels; keeps the checkpoint with the best mean AUROC of the ten tasks on `expert`.

    Args:
      store: the folder of artifacts.
      config: `model`, `options`, `epochs`, `batch_size`, `learning_rate`, `warmup_share`, `decay`, `augment`,
        `checkpoint_every`.
      uncertainty: the policy for labels of -1, see `chexpert.targets`.
      weak, expert: artifacts of `prepare`; the labels of `expert` choose the checkpoint.
      seed: of weights, order and augmentation.
      profile: what is looked into as it trains; of no influence on the artifact's name.

    Returns:
      The artifact: a model that `chexseg_jax.restore` opens.
    """
    key = {
        "config": config,
        "uncertainty": uncertainty,
        "weak": weak.name,
        "expert": expert.name,
        "seed": seed,
    }

    def make(part: Path) -> None:
        train, judged = Prepared.load(weak), Prepared.load(expert)
        source = LabelSource(train, *chexpert.targets(train.labels, uncertainty))
        module = models.create(config.model, num_classes=len(LABELS), axis_name=DATA_AXIS, **config.options)
        steps = max(1, round(config.epochs * len(source) / config.batch_size))
        state = fit(
            f"classifier {config.model}",
            init=init(module, train.size),
            loss=classifier_loss(module, CHEXPERT, augmented=config.augment),
            optimizer=optim.adam(
                config.learning_rate,
                warmup_steps=round(config.warmup_share * steps),
                decay_steps=steps if config.decay else 0,
            ),
            batches=batches(shuffled(source, seed=seed), batch_size=config.batch_size),
            batch_size=config.batch_size,
            steps=steps,
            seed=seed,
            directory=part,
            checkpoint_every=config.checkpoint_every,
            evaluate=_evaluation(module, judged),
            best="auroc",
            profile=profile,
        )
        save_model(
            part,
            state.variables,
            name=config.model,
            num_classes=len(LABELS),
            options=plain(config.options),
            size=train.size,
            tasks=LABELS,
            normalisation=CHEXPERT,
            config=plain(config),
        )

    return artifact(store, f"classifier-{config.model}", key, make, collective=True)


def score_classifier(store: Path, *, classifier: Path, splits: Mapping[str, Path]) -> Path:
    """AUROC of the image labels.

    Args:
      store: the folder of artifacts.
      classifier: artifact of `train_classifier`.
      splits: name -> artifact of `prepare`.

    Returns:
      The artifact: `auroc.json`, {split: {task: AUROC, or None where the split has not both answers}}.
    """
    key = {"classifier": classifier.name, "splits": {name: path.name for name, path in splits.items()}}

    def make(part: Path) -> None:
        model = restore(classifier)
        infer = logits_of(model.module, model.normalisation)
        scores = {}
        for name, path in splits.items():
            values = task_aurocs(infer, model.variables, Prepared.load(path))
            scores[name] = {
                task: None if np.isnan(v) else round(float(v), 4)
                for task, v in zip(TASKS, values, strict=True)
            }
        (part / "auroc.json").write_text(json.dumps(scores, indent=1))

    return artifact(store, "auroc", key, make)


@lru_cache(maxsize=4)
def init(module: nn.Module, size: int, *, channels: int = 3) -> Init:
    """Initial parameters and batch statistics of any of our modules, for images of side `size`."""
    compiled = jax.jit(module.init)

    def initial(key: jax.Array) -> tuple[Any, Any]:
        variables = compiled(key, jnp.zeros((1, size, size, channels)))
        return variables["params"], {"batch_stats": variables["batch_stats"]}

    return initial


def classifier_loss(module: nn.Module, by: Normalisation, *, augmented: bool) -> Loss:
    """Weighted sigmoid BCE of a batch {"image", "targets", "weights"}."""

    def loss(params, model_state, batch, keys):
        images = augment(keys, batch["image"])[0] if augmented else batch["image"]
        (logits, _), updated = module.apply(
            {"params": params, **model_state}, normalise(images, by), train=True, mutable=["batch_stats"]
        )
        return losses.bce_loss(logits, batch["targets"], batch["weights"], DATA_AXIS), (updated, {})

    return loss


def task_aurocs(
    infer: Callable, variables: Mapping[str, Any], judged: Prepared, *, batch_size: int = 32
) -> Float[np.ndarray, " 10"]:
    """AUROC of the ten tasks over `judged`'s labels; nan where a task has not both answers there.

    Args:
      infer: (variables, {"image"}) -> logits [B,14].
    """
    logits = np.concatenate(
        list(map_batches(infer, variables, ImageSource(judged.images), batch_size=batch_size))
    )
    return auroc(logits[:, label_indices()], task_labels(judged.labels))


def logits_of(module: nn.Module, by: Normalisation) -> Callable:
    """The jitted inference of a classifier's logits from grey bytes."""
    return make_inference(lambda variables, batch: module.apply(variables, normalise(batch["image"], by))[0])


def _evaluation(module: nn.Module, judged: Prepared) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    infer = logits_of(module, CHEXPERT)
    return lambda variables: {"auroc": float(np.nanmean(task_aurocs(infer, variables, judged)))}
