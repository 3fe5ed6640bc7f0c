"""Stage: a network trained elsewhere, from a file of PyTorch weights or from a model's folder."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from chexseg_jax.data.provenance import Provenance
from chexseg_jax.data.taxonomy import CHEXPERT, CHEXSEG_LABELS, CHEXSEG_TASKS, FILE, Taxonomy, read_taxonomy
from chexseg_jax.errors import InputError, naming
from chexseg_jax.models import ENCODERS, create
from chexseg_jax.models.encoders import input_channels
from chexseg_jax.models.normalisation import (
    IMAGENET,
    NAMED,
    Normalisation,
    normalisation_of,
    with_channels,
)
from chexseg_jax.models.segmenter import Segmenter
from chexseg_jax.models.torch_weights import files, from_torch, network_of
from chexseg_jax.progress import say
from chexseg_jax.saved_model import restore, save_model

COMMAND = "python -m chexseg_jax.models.torch_weights IN OUT"

_NIH = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
#: Published orders of outputs, by name and number: CheXpert's and CheXlocalize's tables, CheXseg's program, CheXNet and
#: torchxrayvision.
ORDERS: dict[str, dict[int, tuple[str, ...]]] = {
    "csv": {len(names): names for names in (CHEXPERT.labels, CHEXPERT.tasks)},
    "chexseg": {len(names): names for names in (CHEXSEG_LABELS, CHEXSEG_TASKS)},
    "nih": {len(_NIH): _NIH},
    "xrv": {len(files.XRV_OUTPUTS): files.XRV_OUTPUTS},
}
#: Other names of CheXpert's labels, as NIH's ChestX-ray14 and torchxrayvision have them.
_SYNONYMS = {"Pleural Effusion": "Effusion"}


@dataclass(frozen=True)
class Source:
    """A file of PyTorch weights or a model's folder, and the digest of its content, which stands for it in names."""

    path: Path
    fingerprint: str


def find_model(source: str) -> Source:
    """Find an imported network: a file of weights, or a folder with a `model.json`, such as a run's.

    Raises:
      InputError: if it is neither, or cannot be read.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        folder = path if (path / "model.json").exists() else path / "model"
        parts = [folder / "model.json", *sorted(p for p in (folder / "variables").rglob("*") if p.is_file())]
        path = folder
    else:
        card = path.with_name(path.name + ".json")
        parts = [path, *([card] if card.exists() else [])]
    if not parts[0].is_file():
        raise InputError(
            f"{source}: neither a file of weights nor a folder with a model.json; {COMMAND} makes such a folder"
        )
    try:
        digests = [hashlib.sha256(part.read_bytes()).hexdigest() for part in parts]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return Source(path, hashlib.sha256("".join(digests).encode()).hexdigest()[:16])


def import_model(part: Path, *, source: Source) -> None:
    """Copy or import a classifier or an encoder into a folder that `chexseg_jax.restore` opens.

    Args:
      part: the artifact's folder.
      source: from `find_model`.

    Raises:
      InputError: for a damaged model, one that is no classifier, and a file that leaves a question open; the message
        names the import's flag that answers it.
    """
    say(f"imported: {source.path}")
    if source.path.is_file():
        save_model(part, **_read(source.path))
    else:
        restore(source.path)  # complete and sound
        shutil.copy(source.path / "model.json", part)
        shutil.copytree(source.path / "variables", part / "variables", dirs_exist_ok=True)
    _check_encoder(source.path, json.loads((part / "model.json").read_text())["name"])


def find_name(source: Source) -> str:
    """The name of the network that `import_model` would write.

    Raises:
      InputError: see `import_model`; the weights of a folder are not checked.
    """
    path = source.path
    card = _read(path) if path.is_file() else files.read_card(path / "model.json")
    return _check_encoder(path, card["name"])


def _read(file: Path) -> dict[str, Any]:
    try:
        return read_weights(file)
    except InputError as error:
        flags = f"; flags are those of {COMMAND}: import the file by it, and give its OUT"
        raise InputError(f"{error}{flags if ' --' in str(error) else ''}") from None


def _check_encoder(path: Path, name: str) -> str:
    if name not in ENCODERS:
        raise InputError(f"{path}: a {name}, not a classifier or its encoder ({', '.join(ENCODERS)})")
    return name


def read_weights(
    source: Path,
    name: str | None = None,
    *,
    labels: str | None = None,
    drop_head: bool = False,
    normalisation: Normalisation | None = None,
    stride_on: str | None = None,
    size: int | None = None,
) -> dict[str, Any]:
    """The arguments of `save_model`, without the folder, from a file of PyTorch weights.

    Args:
      source: see `files.read`.
      name: of the model; None for the one in the JSON beside the file, else the one that the tensors' names fix.
      labels: names and order of the outputs: one of `ORDERS`, the path of a tasks.toml or names separated by commas;
        None for those in the JSON, else those that the file's source fixes.
      drop_head: see `from_torch`.
      normalisation: of the network's inputs; None for the one in the JSON, else the one that the file's source fixes.
      stride_on: of a ResNet50; None for the one in the JSON, else "conv2".
      size: side of the network's images, in pixels; None for the one in the JSON, else the source's, else 320.

    Raises:
      InputError: for a file that cannot be read, is not `name`'s (missing and left-over tensors are printed), or whose
        outputs' names or normalisation are unknown.
    """
    file = files.read(source)
    say(f"{source}: {len(file.state)} tensors, {file.source}")
    if file.dropped:
        say(f"not the network's, dropped ({len(file.dropped)}): {', '.join(file.dropped)}")
    if file.repeated:
        say(f"{len(file.repeated)} further names of these tensors, equal to them")
    if not (name := name or file.card.get("name") or network_of(file.state)):
        raise InputError(
            f"{source}: the network does not follow from its tensors' names; give --model, such as irnet or "
            "deeplabv3plus_resnet50"
        )
    _check_flags(source, file.card, name, labels=labels, stride_on=stride_on)
    options = file.card.get("options", {}) | ({"stride_on": stride_on} if stride_on else {})
    network = create(name, num_classes=0, **options)
    empty = file.card.get("num_classes") == 0 and network.head is not None
    with naming(source):
        variables = from_torch(
            name, file.state, drop_head=drop_head or empty or file.source.startswith("MoCo")
        )
    head = variables["params"].get(network.head, {"bias": ()})
    segments = isinstance(network, Segmenter)
    taxonomy, names, rows = _outputs(source, file, len(head["bias"]), labels, segments=segments)
    if rows:
        ordered = jax.tree.map(lambda weights: np.asarray(weights)[..., rows], head)
        variables["params"][network.head] = ordered
    chosen, reason = _normalisation(source, file, f"{network.head}.bias", normalisation)
    chosen = with_channels(chosen, input_channels(network, variables))
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in chosen)
    say(f"{source}: {name}, {len(rows)} outputs, inputs normalised by mean {mean} and std {std}, {reason}")
    with naming(source):
        provenance = Provenance.of_card(file.card)
    return {
        "variables": variables,
        "name": name,
        "num_classes": len(rows),
        "options": options,
        "tasks": names,
        "taxonomy": taxonomy,
        "size": size or file.card.get("size") or file.size or 320,
        "normalisation": chosen,
        "thresholds": file.card.get("thresholds") or dict.fromkeys(names if segments else (), 0.5),
        "provenance": provenance,
    }


def _check_flags(
    source: Path, card: Mapping[str, Any], name: str, *, labels: str | None, stride_on: str | None
) -> None:
    if card.get("name", name) != name:
        raise InputError(f"{source}: the JSON beside it says {card['name']}, not {name}; correct --model")
    if stride_on and not name.endswith(("resnet50", "irnet")):
        raise InputError(
            f"--stride-on is for ResNet50's blocks of three convolutions; leave it out for {name}"
        )
    if labels and card.get("tasks"):
        raise InputError(f"{source}: the JSON beside it names the outputs; leave --labels out")


def _outputs(
    source: Path, file: files.TorchFile, count: int, labels: str | None, *, segments: bool
) -> tuple[Taxonomy | None, tuple[str, ...], list[int]]:
    """The outputs' taxonomy and names, and each one's position in the file; no names for ImageNet's classes."""
    card, rows = file.card, list(range(count))
    if card.get("tasks") and count:
        if len(card["tasks"]) != count:
            raise InputError(
                f"{source}: has {count} outputs, and the JSON beside it names {len(card['tasks'])}"
            )
        with naming(source):
            taxonomy = Taxonomy.from_dict(card["taxonomy"]) if "taxonomy" in card else None
        return taxonomy, tuple(card["tasks"]), rows
    if labels in ("csv", "chexseg"):  # one set of outputs in two orders; ours is that of the tables
        if count not in ORDERS[labels]:
            raise _wrong_number(labels, source, count)
        names, order = ORDERS["csv"][count], ORDERS[labels][count]
        return CHEXPERT, names, [order.index(name) for name in names]
    if labels and Path(labels).name == FILE:
        return _toml_outputs(Path(labels), source, count, segments=segments)
    if labels:
        order = (
            ORDERS[labels].get(count, ()) if labels in ORDERS else tuple(map(str.strip, labels.split(",")))
        )
        if len(order) != count:
            raise _wrong_number(labels, source, count)
    elif count and len(file.outputs) == count:
        order = file.outputs
    elif count == 0 or (count == 1000 and not segments):
        return None, (), rows
    else:
        raise InputError(
            f"{source}: nothing in the file names its {count} outputs; give --labels {', '.join(ORDERS)}, a {FILE} or "
            f"the names, separated by commas{'' if segments else ', or --drop-head for an encoder'}"
        )
    rows = [row for row, name in enumerate(order) if name]
    if untrained := count - len(rows):
        say(f"{untrained} outputs that were not trained (op_threshs is NaN), dropped")
    names = tuple(order[row] for row in rows)
    with naming(source):
        taxonomy = Taxonomy(labels=names, tasks=names) if segments else _taxonomy_of(names)
    return taxonomy, names, rows


def _wrong_number(labels: str, source: Path, count: int) -> InputError:
    known = " or ".join(map(str, ORDERS[labels])) if labels in ORDERS else len(labels.split(","))
    return InputError(
        f"--labels {labels} names {known} outputs, and {source} has {count}; give its own names"
    )


def _toml_outputs(
    path: Path, source: Path, count: int, *, segments: bool
) -> tuple[Taxonomy, tuple[str, ...], list[int]]:
    if not path.is_file():
        raise InputError(f"--labels {path}: no such file")
    taxonomy = read_taxonomy(path.parent)
    names = taxonomy.tasks if segments else taxonomy.labels
    if len(names) != count:
        kind = "tasks" if segments else "labels"
        raise InputError(
            f"{path} has {len(names)} {kind}, and {source} has {count} outputs; give its own {FILE}"
        )
    return taxonomy, names, list(range(count))


def _taxonomy_of(names: tuple[str, ...]) -> Taxonomy:
    """The task set of a classifier with these outputs: CheXpert's tasks that have one; if none has, the outputs."""
    label_of = {}
    for task in CHEXPERT.tasks:
        label = CHEXPERT.label(task)
        if spoken := [name for name in (task, label, _SYNONYMS.get(label)) if name in names]:
            label_of[task] = spoken[0]
    return Taxonomy(labels=names, tasks=tuple(label_of) or names, label_of=label_of)


def _normalisation(
    source: Path, file: files.TorchFile, bias: str, given: Normalisation | None
) -> tuple[Normalisation, str]:
    """The normalisation of the inputs and what says so; `bias` is the name of the head's."""
    if given:
        return given, "as given"
    if "normalisation" in file.card:
        return normalisation_of(file.card["normalisation"]), "as in the JSON beside the file"
    if file.normalisation:
        return file.normalisation, f"as in the program that wrote the file ({file.source})"
    if np.shape(file.state.get(bias)) == (1000,):
        return IMAGENET, "ImageNet's, whose 1000 classes it has"
    raise InputError(
        f"{source}: nothing in the file tells how its network's inputs were normalised; give --normalisation "
        f"{', '.join(NAMED)} or MEAN,STD"
    )
