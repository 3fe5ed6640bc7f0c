"""Trained models on disk: `save_model`, `restore`, and a training that starts from one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.data.images import fit_image
from chexseg_jax.data.prepared import ImageSource
from chexseg_jax.errors import DamagedError, InputError, first_line
from chexseg_jax.models.normalisation import Normalisation
from chexseg_jax.training.inference import map_batches, probabilities_of


def save_model(
    directory: Path,
    variables: Mapping[str, Any],
    *,
    name: str,
    num_classes: int,
    options: Mapping[str, Any],
    size: int,
    tasks: Sequence[str],
    normalisation: Normalisation,
    thresholds: Mapping[str, float] | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model that `restore` opens: its variables by Orbax, and `model.json` with all that goes with them.

    Of several processes the first one writes, and waits for none.

    Args:
      directory: an existing folder.
      variables: the Flax collections.
      name, num_classes, options: what `models.create` is called with.
      size: side of the square images it was trained on, in pixels.
      tasks: names of the output channels, in order.
      normalisation: mean and std its inputs are normalised by.
      thresholds: probability above which a pixel belongs to a task.
      config: the training's configuration, for the record.
    """
    if jax.process_index() > 0:
        return
    with _checkpointer() as checkpointer:
        checkpointer.save(directory.absolute() / "variables", jax.tree.map(np.asarray, variables), force=True)
    card = {
        "name": name,
        "num_classes": num_classes,
        "options": dict(options),
        "size": size,
        "tasks": list(tasks),
        "normalisation": normalisation._asdict(),
        "thresholds": dict(thresholds or {}),
        "config": dict(config or {}),
    }
    (directory / "model.json").write_text(json.dumps(card, indent=1))


def _checkpointer() -> ocp.StandardCheckpointer:
    """Of this process alone: a model is read and written where no other process need come along."""
    this = jax.process_index()
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    )


@dataclass(frozen=True)
class Restored:
    """A trained model and all that goes with it.

    Attributes:
      module: the Flax module; `module.apply(variables, images, train=False) -> (logits, out)`.
      variables: its collections, numpy or JAX arrays.
      config: `name`, `num_classes`, `options`, `size` and `config` (the training's) as saved.
      tasks: names of the output channels.
      thresholds: task -> probability above which a pixel belongs to it (segmentations only).
      normalisation: what `module`'s inputs are normalised by.
    """

    module: nn.Module
    variables: Mapping[str, Any]
    config: ConfigDict
    tasks: tuple[str, ...]
    thresholds: Mapping[str, float]
    normalisation: Normalisation

    def predict(
        self, images: UInt8[np.ndarray, "B H W"] | Sequence[UInt8[np.ndarray, "H W"]], *, batch_size: int = 8
    ) -> Float[np.ndarray, "B *S K"]:
        """Sigmoid probabilities of grey radiographs of any size.

        Args:
          images: intensities 0 to 255; each is letterboxed to the training size S.
          batch_size: images at a time.

        Returns:
          [B,S,S,K] for a segmentation (`data.images.unfit_map` takes a map back to full size), [B,K] for a classifier.

        Raises:
          InputError: for anything but grey bytes: no guess is made of what other numbers stand for; and for a
            network without outputs, such as MoCo's encoder: its features are `module.apply(...)[1]["features"]`.
        """
        if not self.config.num_classes:
            raise InputError(f"a {self.config.name} without outputs predicts nothing; see Restored.module")
        images = [np.asarray(image) for image in images]
        for number, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 2:
                raise InputError(
                    f"image {number} is {image.dtype} {list(image.shape)}: give grey uint8 [height, width], as "
                    "chexseg_jax.data.images.read_grey makes them of any file"
                )
        if not images:
            raise InputError("no image to predict: give at least one")
        fitted = np.stack([fit_image(image, self.config.size) for image in images])

        batches = map_batches(
            probabilities_of(self.module, self.normalisation),
            self.variables,
            ImageSource(fitted),
            batch_size=min(batch_size, len(fitted)),
        )
        return np.concatenate(list(batches))


def restore(directory: str | Path) -> Restored:
    """Opens a model that a stage, or an import of weights, has written.

    Args:
      directory: holds `model.json` and `variables/`, or is a run's folder with a `model/` in it.

    Raises:
      InputError: where it holds no model, or half of one.
    """
    directory = Path(directory)
    if not (directory / "model.json").exists() and (directory / "model" / "model.json").exists():
        directory = directory / "model"
    if not (directory / "model.json").exists():
        raise InputError(
            f"{directory} holds no model (no model.json); give a run's folder or a stage's artifact"
        )
    try:
        card = json.loads((directory / "model.json").read_text())
    except ValueError as error:
        raise InputError(f"{directory / 'model.json'}: not whole ({error}); copy the folder again") from None
    if not (directory / "variables").is_dir():
        raise InputError(f"{directory}: has no variables/, the weights; copy the folder again")
    module = models.create(card["name"], num_classes=card["num_classes"], **card["options"])
    channels = len(card["normalisation"]["mean"])
    images = jax.ShapeDtypeStruct((1, card["size"], card["size"], channels), np.float32)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        jax.eval_shape(module.init, jax.random.key(0), images),
    )
    try:
        with _checkpointer() as checkpointer:
            variables = checkpointer.restore(directory.absolute() / "variables", abstract)
    except jax.errors.JaxRuntimeError:  # such as a device that is full
        raise
    # By which of its files is not whole it is a ValueError, a JSONDecodeError or a plain Exception. What else it may be
    # is seen as the cause.
    except Exception as error:
        raise DamagedError(
            f"{directory / 'variables'}: not whole ({first_line(error)}); copy the folder again"
        ) from error
    by = Normalisation(*(tuple(card["normalisation"][key]) for key in Normalisation._fields))
    tasks, thresholds = tuple(card.pop("tasks")), card.pop("thresholds")
    return Restored(module, variables, ConfigDict(card), tasks, thresholds, by)
