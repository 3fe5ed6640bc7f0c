"""The command `python -m chexseg_jax.models.torch_weights IN OUT --model NAME`."""

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from chexseg_jax.data.provenance import Provenance
from chexseg_jax.data.taxonomy import CHEXPERT, CHEXSEG_LABELS, CHEXSEG_TASKS, FILE, Taxonomy, read_taxonomy
from chexseg_jax.errors import InputError, Parser, naming, run_command
from chexseg_jax.models import create
from chexseg_jax.models.encoders import input_channels
from chexseg_jax.models.normalisation import (
    IMAGENET,
    NAMED,
    Normalisation,
    normalisation_of,
    parse_normalisation,
    with_channels,
)
from chexseg_jax.models.segmenter import Segmenter
from chexseg_jax.models.torch_weights import files, from_torch, to_torch
from chexseg_jax.progress import say
from chexseg_jax.saved_model import restore, save_model

EPILOG = """\
import: IN is a file of torchvision, segmentation-models-pytorch (0.1.x or 0.6), Lightning, MoCo or IRNet weights
        (.safetensors, .npz; .pth, .pt, .ckpt, .tar, .bin with torch), OUT a new folder for chexseg_jax.restore
export: IN is such a folder, or that of a run or a stage, OUT a new .safetensors, .npz or .pth with the peer's names

Model, options, normalisation and the outputs' names are in OUT's model.json, or in a JSON file beside OUT.
"""
#: The names of fourteen or ten outputs, in the order of CheXpert's tables and in that of CheXseg's program.
_PUBLISHED = {
    len(ours): {"csv": ours, "chexseg": theirs}
    for ours, theirs in ((CHEXPERT.labels, CHEXSEG_LABELS), (CHEXPERT.tasks, CHEXSEG_TASKS))
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line; import or export."""
    parser = Parser(
        prog="chexseg weights",
        description="Convert PyTorch weights to an Orbax checkpoint, or back.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="IN", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument(
        "--model", metavar="NAME", help="resnet18, densenet121, deeplabv3plus_resnet50, irnet..."
    )
    parser.add_argument(
        "--tasks",
        metavar="csv|chexseg|FILE",
        help="names and order of the outputs: csv for fourteen or ten as in CheXpert's and CheXlocalize's tables "
        "(the default), chexseg for fourteen or ten as in CheXseg's PyTorch program (imported in csv's order), or the "
        "path of a tasks.toml: its labels for a classifier, its tasks for a segmentation",
    )
    parser.add_argument("--drop-head", action="store_true", help="leave out a classifier's last layer")
    parser.add_argument(
        "--normalisation",
        metavar="|".join((*NAMED, "MEAN,STD")),
        help="normalisation of the network's inputs: a name; or mean and standard deviation of intensities in [0, 1], "
        "or three of each. Needed unless the file gives it: a JSON beside it, a checkpoint of CheXseg's classifier, "
        "IRNet, or ImageNet's 1000 outputs",
    )
    parser.add_argument(
        "--stride-on",
        choices=["conv1", "conv2"],
        help="conv1 for v1 ResNet50s (default: conv2, torchvision's)",
    )
    parser.add_argument("--size", type=int, help="side of the network's images, in pixels (default: 320)")
    arguments = parser.parse_args(argv)
    if arguments.size is not None and arguments.size < 1:
        raise InputError(f"--size {arguments.size} must be at least 1")
    if arguments.out.exists():
        raise InputError(f"{arguments.out}: already exists; remove it or choose another name")
    if arguments.source.is_dir():
        _export(arguments.source, arguments.out)
    elif not arguments.model:
        raise InputError(
            "--model is missing: name the network of the weights, such as resnet18 or densenet121"
        )
    else:
        import_weights(
            arguments.source,
            arguments.out,
            arguments.model,
            tasks=arguments.tasks,
            drop_head=arguments.drop_head,
            normalisation=(parse_normalisation(arguments.normalisation) if arguments.normalisation else None),
            stride_on=arguments.stride_on,
            size=arguments.size,
        )


def import_weights(
    source: Path,
    out: Path,
    name: str,
    *,
    tasks: str | None = None,
    drop_head: bool = False,
    normalisation: Normalisation | None = None,
    stride_on: str | None = None,
    size: int | None = None,
) -> None:
    """Write the folder `out`, which `chexseg_jax.restore` opens, from a file of PyTorch weights.

    Args:
      source: see `files.read`.
      out: a new folder; it appears complete or not at all.
      name: of the model.
      tasks: "csv", "chexseg" or the path of a tasks.toml; None for the names in the JSON beside the file, else "csv".
      drop_head: see `from_torch`.
      normalisation: of the network's inputs; None for the one in the JSON, else the one that the file's source fixes.
      stride_on: of a ResNet50; None for the one in the JSON, else "conv2".
      size: side of the network's images, in pixels; None for the one in the JSON, else 320.

    Raises:
      InputError: for a file that cannot be read, is not `name`'s (missing and left-over tensors are printed), or whose
        normalisation is unknown.
    """
    file = files.read(source)
    say(f"{source}: {len(file.state)} tensors, {file.source}")
    if file.dropped:
        say(f"not the network's, dropped ({len(file.dropped)}): {', '.join(file.dropped)}")
    if file.repeated:
        say(f"{len(file.repeated)} further names of these tensors, equal to them")
    _check_flags(source, file.card, name, tasks=tasks, stride_on=stride_on)
    options = file.card.get("options", {}) | ({"stride_on": stride_on} if stride_on else {})
    network = create(name, num_classes=0, **options)
    empty = file.card.get("num_classes") == 0 and network.head is not None
    with naming(source):
        variables = from_torch(
            name, file.state, drop_head=drop_head or empty or file.source.startswith("MoCo")
        )
    head = variables["params"].get(network.head, {"bias": ()})
    segments = isinstance(network, Segmenter)
    num_classes = len(head["bias"])
    taxonomy, names, rows = _outputs(source, file.card, num_classes, tasks, segments=segments)
    if num_classes:
        ordered = jax.tree.map(lambda weights: np.asarray(weights)[..., rows], head)
        variables["params"][network.head] = ordered
    chosen, reason = _normalisation(source, file, f"{network.head}.bias", normalisation)
    chosen = with_channels(chosen, input_channels(network, variables))
    thresholds = file.card.get("thresholds") or dict.fromkeys(names if segments else (), 0.5)
    model = {
        "name": name,
        "num_classes": num_classes,
        "options": options,
        "tasks": names,
        "taxonomy": taxonomy,
    }
    with naming(source):
        model["provenance"] = Provenance.of_card(file.card)
    model |= {"size": size or file.card.get("size", 320), "normalisation": chosen, "thresholds": thresholds}
    _save(out, variables, model)
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in chosen)
    say(f"{out}: {name}, {num_classes} outputs, inputs normalised by mean {mean} and std {std}, {reason}")


def _check_flags(
    source: Path, card: Mapping[str, Any], name: str, *, tasks: str | None, stride_on: str | None
) -> None:
    if card.get("name", name) != name:
        raise InputError(f"{source}: the JSON beside it says {card['name']}, not {name}; correct --model")
    if stride_on and not name.endswith(("resnet50", "irnet")):
        raise InputError(
            f"--stride-on is for ResNet50's blocks of three convolutions; leave it out for {name}"
        )
    if tasks and card.get("tasks"):
        raise InputError(f"{source}: the JSON beside it names the outputs; leave --tasks out")


def _outputs(
    source: Path, card: Mapping[str, Any], count: int, tasks: str | None, *, segments: bool
) -> tuple[Taxonomy | None, tuple[str, ...], Sequence[int]]:
    """The outputs' taxonomy and names, and each one's position in the file; () without names."""
    rows = list(range(count))
    if card.get("tasks") and count:
        if len(card["tasks"]) != count:
            raise InputError(
                f"{source}: has {count} outputs, and the JSON beside it names {len(card['tasks'])}"
            )
        with naming(source):
            taxonomy = Taxonomy.from_dict(card["taxonomy"]) if "taxonomy" in card else None
        return taxonomy, tuple(card["tasks"]), rows
    if tasks is None and count not in _PUBLISHED:
        return None, (), rows
    if tasks is None:
        say(
            f"{count} outputs, assumed in the order of CheXpert's and CheXlocalize's tables; give --tasks chexseg for "
            "a checkpoint of CheXseg's own program"
        )
    if tasks in (None, "csv", "chexseg"):
        if count not in _PUBLISHED:
            raise InputError(
                f"--tasks {tasks} names 14 or 10 outputs, and {source} has {count}; give a {FILE}"
            )
        names, order = _PUBLISHED[count]["csv"], _PUBLISHED[count][tasks or "csv"]
        return CHEXPERT, names, [order.index(task) for task in names]
    path = Path(tasks)
    if path.name != FILE or not path.is_file():
        raise InputError(f"--tasks {tasks} must be csv, chexseg or the path of a {FILE}")
    taxonomy = read_taxonomy(path.parent)
    names = taxonomy.tasks if segments else taxonomy.labels
    if len(names) != count:
        kind = "tasks" if segments else "labels"
        raise InputError(
            f"{path} has {len(names)} {kind}, and {source} has {count} outputs; give its own {FILE}"
        )
    return taxonomy, names, rows


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


def _save(out: Path, variables: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_model(part, variables, **model)
        os.replace(part, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _export(source: Path, out: Path) -> None:
    model = restore(source)
    config = model.config
    card = {
        "name": config.name,
        "num_classes": config.num_classes,
        "options": config.options.to_dict(),
        "size": config.size,
        "normalisation": model.normalisation._asdict(),
        "tasks": model.tasks,
        "taxonomy": model.taxonomy.to_dict(),
        "thresholds": dict(model.thresholds),
        "provenance": model.provenance.to_dict(),
    }
    state = to_torch(config.name, model.variables)
    files.write(out, state, card)
    say(f"{out}: {len(state)} tensors of a {config.name}, and {out}.json with its settings")


if __name__ == "__main__":
    run_command(main)
