"""Trained models on disk: `save_model`, `restore`, and a training that starts from one."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.data.images import fit_image
from chexseg_jax.data.prepared import Examples
from chexseg_jax.data.provenance import UNKNOWN, Provenance
from chexseg_jax.data.reference import UPRIGHT, Reference
from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy
from chexseg_jax.errors import DamagedError, InputError, first_line, naming
from chexseg_jax.files import checksums, damaged
from chexseg_jax.models.encoders import with_encoder
from chexseg_jax.models.normalisation import Normalisation, normalisation_of
from chexseg_jax.models.torch_weights import check_values
from chexseg_jax.models.torch_weights.files import read_card, stand_in
from chexseg_jax.training.inference import map_batches, probabilities_of
from chexseg_jax.training.loop import Init
from chexseg_jax.training.state import initial_variables


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
    taxonomy: Taxonomy | None = None,
    thresholds: Mapping[str, float] | None = None,
    config: Mapping[str, Any] | None = None,
    provenance: Provenance = UNKNOWN,
    reference: Reference = UPRIGHT,
) -> None:
    """Write a model that `restore` opens: its variables by Orbax, and `model.json` with its metadata.

    Only the first of several processes writes; it waits for none.

    Args:
      directory: an existing folder.
      variables: the Flax collections.
      name, num_classes, options: the arguments of `models.create`.
      size: side of the square training images, in pixels.
      tasks: names of the output channels, in order.
      normalisation: mean and std of the inputs.
      taxonomy: labels and tasks of the training data; None if unknown.
      thresholds: probability above which a pixel belongs to a task.
      config: the training's configuration, for the record.
      provenance: of the model, for the record.
      reference: the look of its training images.
    """
    if jax.process_index() > 0:
        return
    with _checkpointer() as checkpointer:
        checkpointer.save(directory.absolute() / "variables", jax.tree.map(np.asarray, variables), force=True)
    if reference is not UPRIGHT:
        reference.save(directory)
    card = {
        "name": name,
        "num_classes": num_classes,
        "options": dict(options),
        "size": size,
        "tasks": list(tasks),
        "normalisation": normalisation._asdict(),
        **({"taxonomy": taxonomy.to_dict()} if taxonomy else {}),
        "thresholds": dict(thresholds or {}),
        "config": dict(config or {}),
        "provenance": provenance.to_dict(),
        "checksums": checksums(directory / "variables"),
    }
    (directory / "model.json").write_text(json.dumps(card, indent=1))


def _checkpointer() -> ocp.StandardCheckpointer:
    """A checkpointer of this process alone: saving and restoring a model involves no other process."""
    this = jax.process_index()
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    )


@dataclass(frozen=True)
class Restored:
    """A trained model and its metadata.

    Attributes:
      module: the Flax module; `module.apply(variables, images, train=False) -> (logits, out)`.
      variables: its collections, numpy or JAX arrays.
      config: `name`, `num_classes`, `options`, `size` and `config` (the training's) as saved.
      tasks: names of the output channels.
      thresholds: task -> probability above which a pixel belongs to it (segmentations only).
      normalisation: of the module's inputs.
      taxonomy: labels and tasks of the training data.
      provenance: what it was trained on; "unknown data" for a model saved by earlier versions.
      reference: checks whether an image is like the training images, or inverted, rotated or blank.
    """

    module: nn.Module
    variables: Mapping[str, Any] = field(repr=False)
    config: ConfigDict
    tasks: tuple[str, ...]
    thresholds: Mapping[str, float]
    normalisation: Normalisation
    taxonomy: Taxonomy = CHEXPERT
    provenance: Provenance = UNKNOWN
    reference: Reference = field(default=UPRIGHT, repr=False)

    def outputs_of(self, taxonomy: Taxonomy) -> Int[np.ndarray, " K"]:
        """Find the outputs that speak for the tasks of a data set, by name; -1 for a task without one.

        A classifier trained elsewhere has other labels in another order; its own taxonomy says which speaks for a task.

        Raises:
          InputError: if no output speaks for any task.
        """
        own = self.taxonomy
        known = {*own.labels, *own.tasks, *own.aliases}

        def label(name: str) -> str:
            if name in own.tasks:
                return own.label_of_task(name)
            return own.label(name) if name in known else name

        def output(task: str) -> int:
            for name in (task, taxonomy.label_of_task(task)):
                for own_name in (label(name), name):
                    if own_name in self.tasks:
                        return self.tasks.index(own_name)
            return -1

        outputs = np.array([output(task) for task in taxonomy.tasks])
        if (outputs < 0).all():
            raise InputError(
                f"the {self.config.name}'s outputs ({', '.join(self.tasks) or 'without names'}) speak for none of the "
                f"tasks {', '.join(taxonomy.tasks)}; import it with --labels"
            )
        return outputs

    def predict(
        self, images: np.ndarray | Sequence[np.ndarray], *, batch_size: int = 8
    ) -> Float[np.ndarray, "B *S K"]:
        """Predict sigmoid probabilities for grey radiographs of any size.

        Args:
          images: uint8 [B,H,W], or uint8 [H,W] of any sizes; each is letterboxed to the training size S.
          batch_size: images at a time.

        Returns:
          [B,S,S,K] for a segmentation (`data.images.unfit_map` resamples a map to full size), [B,L] for a classifier.

        Raises:
          InputError: for images that are not grey bytes, since the scale of other numbers cannot be known; and for a
            network without outputs, such as MoCo's encoder, whose features are `module.apply(...)[1]["features"]`.
        """
        if not self.config.num_classes:
            raise InputError(f"a {self.config.name} without outputs cannot predict; see Restored.module")
        shape: tuple[int, ...] = getattr(images, "shape", ())
        if len(shape) == 3 and shape[-1] in (3, 4):  # one in colour: its rows are no images
            images = [np.asarray(images)]
        images = [np.asarray(image) for image in images]
        for number, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 2 or not image.size:
                raise InputError(
                    f"image {number} is {image.dtype} {list(image.shape)}: give grey uint8 [height, width], as read by "
                    "chexseg_jax.data.images.read_grey"
                )
        if not images:
            raise InputError("no image to predict: give at least one")
        fitted = np.stack([fit_image(image, self.config.size) for image in images])

        batches = map_batches(
            probabilities_of(self.module, self.normalisation),
            self.variables,
            Examples(image=fitted),
            batch_size=min(batch_size, len(fitted)),
        )
        return np.concatenate(list(batches))


def restore(directory: str | Path) -> Restored:
    """Open a model that a stage, or an import of weights, has saved.

    Args:
      directory: a folder with `model.json` and `variables/`, or a run's folder with a `model/` in it.

    Raises:
      InputError: for a folder without a complete model, and for weights with NaN or infinity.
    """
    directory = Path(directory)
    if not (directory / "model.json").exists() and (directory / "model" / "model.json").exists():
        directory = directory / "model"
    if (link := directory / "model").is_symlink() and not link.exists():  # earlier versions made a link
        raise InputError(
            f"{link}: links to {os.readlink(link)}, which is not here; copy the run with cp -aL, which follows links"
        )
    path = directory / "model.json"
    card = read_card(path)
    if not card:
        raise InputError(
            f"{directory} holds no model (no model.json); give a run's folder or a stage's artifact"
        )
    if not (directory / "variables").is_dir():
        program = next(
            (name for name in ("model.stablehlo", "model.onnx") if (directory / name).exists()), ""
        )
        raise InputError(
            f"{directory}: packaged as {program} for other programs; give the model that it was made of"
            if program
            else f"{directory}: has no variables/, the weights; copy the folder again"
        )
    if (
        lacking := {"name", "num_classes", "options", "size", "normalisation", "tasks", "thresholds"}
        - card.keys()
    ):
        raise InputError(f"{path}: has no {min(lacking)}; copy the folder again")
    if (name := damaged(directory / "variables", card.pop("checksums", {}))) is not None:
        raise DamagedError(
            f"{directory / 'variables' / name}: missing, or not what was written; copy the folder again"
        )
    module = models.create(card["name"], num_classes=card["num_classes"], **card["options"])
    normalisation = normalisation_of(card["normalisation"])
    variables = _read_variables(directory / "variables", module, card["size"], len(normalisation.mean))
    tasks, thresholds = tuple(card.pop("tasks")), card.pop("thresholds")
    # Models saved before task sets travelled with the data are all of CheXpert's.
    with naming(path):
        _check_thresholds(thresholds, tasks)
        taxonomy = Taxonomy.from_dict(card.pop("taxonomy")) if "taxonomy" in card else CHEXPERT
        provenance = Provenance.of_card(card)
    card.pop("provenance", None)
    return Restored(
        module,
        variables,
        ConfigDict(card),
        tasks,
        thresholds,
        normalisation,
        taxonomy,
        provenance,
        Reference.load(directory),
    )


def _check_thresholds(thresholds: Mapping[str, float], tasks: Sequence[str]) -> None:
    """A segmentation has a threshold for each task; people edit them by hand."""
    if thresholds and thresholds.keys() != set(tasks):
        odd = min(thresholds.keys() ^ set(tasks))
        raise InputError(
            f"thresholds: {odd} is " + ("no task of the model" if odd in thresholds else "missing")
        )
    for task, value in thresholds.items():
        if not isinstance(value, int | float) or not 0 <= value < 1:
            raise InputError(f"threshold {value!r} of {task} must be a number, at least 0 and below 1")


def _read_variables(folder: Path, module: nn.Module, size: int, channels: int) -> Mapping[str, Any]:
    images = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
        jax.eval_shape(module.init, jax.random.key(0), images),
    )
    try:
        with _checkpointer() as checkpointer:
            variables = checkpointer.restore(folder.absolute(), abstract)
    except jax.errors.JaxRuntimeError:  # such as a full device
        raise
    # Orbax raises a ValueError, a JSONDecodeError or a plain Exception, depending on the damaged file.
    except Exception as error:
        reason = next(filter(None, (stand_in(file) for file in folder.rglob("*") if file.is_file())), "")
        reason = reason or f"truncated or corrupt ({first_line(error)}); copy the folder again"
        raise DamagedError(f"{folder}: {reason}") from error
    with naming(folder):
        check_values({name: np.asarray(value) for name, value in flatten_dict(variables, sep="/").items()})
    return variables


def stride_option(start: Restored | None) -> dict[str, str]:
    """The option of a ResNet that belongs to its weights: the convolution of a block that has the stride."""
    options = start.config.options.items() if start else ()
    return {key: value for key, value in options if key == "stride_on"}


def initialise_from(start: Restored | None, module: nn.Module, size: int, part: str = "encoder") -> Init:
    """Initial variables of a module, from a saved model of the same module or of its encoder, called `part`.

    The head of a classifier of other classes is left out. Anything missing from `start` (everything, if it is None)
    is initialised randomly.
    """

    def initial(key: jax.Array) -> tuple[Any, Any]:
        channels = len(start.normalisation.mean) if start else 3
        params, model_state = initial_variables(module, size, channels)(key)
        if start is None:
            return params, model_state
        saved = dict(start.variables)
        if saved["params"].keys() != params.keys():
            saved = with_encoder({"params": params, **model_state}, saved, head=start.module.head, part=part)
        elif start.config.num_classes != module.num_classes:  # the same network for other classes
            saved["params"] = {**saved["params"], module.head: params[module.head]}
        return saved.pop("params"), saved

    return initial
