"""The command `python -m chexseg_jax.models.torch_weights IN OUT --model NAME`."""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from chexseg_jax.data.taxonomy import CHEXSEG_LABELS, CHEXSEG_TASKS, LABELS, TASKS
from chexseg_jax.errors import InputError, Parser, run_command
from chexseg_jax.models.grey import grey_normalisation, grey_stem, input_channels
from chexseg_jax.models.normalisation import CHEXPERT, IMAGENET, Normalisation
from chexseg_jax.models.torch_weights import files, from_torch, to_torch
from chexseg_jax.progress import say
from chexseg_jax.saved_model import restore, save_model

EPILOG = """\
import: IN is a file of torchvision, segmentation-models-pytorch (0.1.x or 0.6), Lightning, MoCo or IRNet weights
        (.safetensors, .npz; .pth, .pt, .ckpt, .tar, .bin with torch), OUT a new folder that chexseg_jax.restore opens
export: IN is such a folder, or a run's or a stage's, OUT a new .safetensors, .npz or .pth of the peer's names

What goes with the weights (normalisation, model, options) is in OUT's model.json, or in a JSON file beside OUT.
"""
#: Parameters of the last layers.
_HEADS = ("fc", "classifier", "segmentation_head_0")
_NORMALISATIONS = {"imagenet": IMAGENET, "chexpert": CHEXPERT}
#: What a network's outputs are, by their number and their order in the file; here they get ours, which is `csv`.
_TASKS = {
    len(LABELS): {"csv": LABELS, "chexseg": CHEXSEG_LABELS},
    len(TASKS): {"csv": TASKS, "chexseg": CHEXSEG_TASKS},
}


def main() -> None:
    """Parses the command line; imports or exports."""
    parser = Parser(
        prog="python -m chexseg_jax.models.torch_weights",
        description="Weights from PyTorch to an Orbax checkpoint, and back.",
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
        choices=["csv", "chexseg"],
        help="the order of fourteen or ten outputs: csv for that of CheXpert's and CheXlocalize's tables, chexseg for "
        "checkpoints of CheXseg's PyTorch program; the imported ones are put into the former (default: csv)",
    )
    parser.add_argument("--drop-head", action="store_true", help="leave a classifier's last layer out")
    parser.add_argument(
        "--normalisation",
        choices=sorted(_NORMALISATIONS),
        help="what the network's inputs were normalised by (default: what the file says, else chexpert for Lightning "
        "checkpoints and imagenet for all others)",
    )
    parser.add_argument(
        "--stride-on",
        choices=["conv1", "conv2"],
        help="conv1 for v1 ResNet50s (default conv2, torchvision's)",
    )
    parser.add_argument("--grey", action="store_true", help="sum the stem's three channels into one")
    parser.add_argument("--size", type=int, help="side of the images it is used on, in pixels (default 320)")
    given = parser.parse_args()
    if given.out.exists():
        raise InputError(f"{given.out}: is there already; remove it or give another name")
    if given.source.is_dir():
        _export(given.source, given.out)
    elif not given.model:
        raise InputError("--model is missing: which network are the weights of? resnet18, densenet121...")
    else:
        import_weights(
            given.source,
            given.out,
            given.model,
            order=given.tasks,
            drop_head=given.drop_head,
            normalisation=_NORMALISATIONS.get(given.normalisation),
            stride_on=given.stride_on,
            grey=given.grey,
            size=given.size,
        )


def import_weights(
    source: Path,
    out: Path,
    name: str,
    *,
    order: str | None = None,
    drop_head: bool = False,
    normalisation: Normalisation | None = None,
    stride_on: str | None = None,
    grey: bool = False,
    size: int | None = None,
) -> None:
    """Writes the folder `out`, which `chexseg_jax.restore` opens, from a file of PyTorch weights.

    Args:
      source: see `files.read`.
      out: a folder that is not there yet; it appears whole or not at all.
      name: the model's.
      order: of the outputs, "csv" or "chexseg", see `_TASKS`; None for what the JSON beside the file says, else "csv".
      drop_head: see `from_torch`.
      normalisation: None for what the file says, else CHEXPERT for Lightning checkpoints, IMAGENET for all others.
      stride_on: of a ResNet50; None for what the file says, else "conv2".
      grey: one input channel, see `grey_stem`.
      size: side of the images it is used on, in pixels; None for what the file says, else 320.

    Raises:
      InputError: for a file that cannot be read or is not `name`'s; what is missing and left over is printed.
    """
    file = files.read(source)
    say(f"{source}: {len(file.state)} tensors, {file.source}")
    if file.dropped:
        say(f"not the network's, dropped ({len(file.dropped)}): {', '.join(file.dropped)}")
    if file.card.get("name", name) != name:
        raise InputError(f"{source}: holds a {file.card['name']} by the JSON beside it, not a {name}")
    if stride_on and not name.endswith(("resnet50", "irnet")):
        raise InputError(
            f"--stride-on is for ResNet50's blocks of three convolutions; leave it out for {name}"
        )
    if order and file.card.get("tasks"):
        raise InputError(f"{source}: the JSON beside it names the outputs; leave --tasks out")
    headless = (
        drop_head or file.source.startswith("MoCo") or (file.card.get("num_classes") == 0 and name != "irnet")
    )
    variables = from_torch(name, file.state, drop_head=headless)
    by = normalisation or _normalisation(file)
    options = dict(file.card.get("options", {}))
    if stride_on:
        options["stride_on"] = stride_on
    if grey:
        variables, by = grey_stem(variables, by)
    elif input_channels(variables) == 1 and len(by.mean) == 3:
        by = grey_normalisation(by)
    head = next((key for key in _HEADS if key in variables["params"]), None)
    num_classes = len(variables["params"][head]["bias"]) if head else 0
    tasks = tuple(file.card.get("tasks", ()))
    if num_classes in _TASKS and not tasks:
        if order is None:
            order = "csv"
            say(
                f"{num_classes} outputs, taken to be in the order of CheXpert's and CheXlocalize's tables; for a "
                "checkpoint of CheXseg's own program give --tasks chexseg"
            )
        tasks = _TASKS[num_classes]["csv"]
        variables = _reordered(variables, head, [_TASKS[num_classes][order].index(task) for task in tasks])
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_model(
            part,
            variables,
            name=name,
            num_classes=num_classes,
            options=options,
            size=size or file.card.get("size", 320),
            tasks=tasks,
            normalisation=by,
            thresholds=file.card.get("thresholds")
            or dict.fromkeys(tasks if name.startswith("deeplab") else (), 0.5),
        )
        os.replace(part, out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in by)
    say(f"{out}: {name}, {num_classes} outputs, inputs normalised by mean {mean} and std {std}")


def _reordered(variables: dict[str, Any], head: str, rows: Sequence[int]) -> dict[str, Any]:
    """The variables with a head's outputs, its weights' last axis, in another order."""
    params = variables["params"]
    turned = jax.tree.map(lambda weights: np.asarray(weights)[..., list(rows)], params[head])
    return {**variables, "params": {**params, head: turned}}


def _normalisation(file: files.TorchFile) -> Normalisation:
    said: Any = file.card.get("normalisation")
    if said:
        return Normalisation(*(tuple(said[key]) for key in Normalisation._fields))
    return CHEXPERT if file.source.startswith("Lightning") else IMAGENET


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
        "thresholds": dict(model.thresholds),
    }
    state = to_torch(config.name, model.variables)
    files.write(out, state, card)
    say(f"{out}: {len(state)} tensors of a {config.name}, and {out}.json with what goes with them")


if __name__ == "__main__":
    run_command(main)
