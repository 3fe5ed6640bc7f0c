"""The command `python -m chexseg_jax.models.torch_weights IN OUT`."""

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chexseg_jax.errors import InputError, Parser, run_command
from chexseg_jax.models.normalisation import NAMED, parse_normalisation
from chexseg_jax.models.torch_weights import files, to_torch
from chexseg_jax.progress import say
from chexseg_jax.saved_model import restore, save_model
from chexseg_jax.stages.imported import ORDERS, read_weights

EPILOG = """\
import: IN is a file of torchvision, torchxrayvision, segmentation-models-pytorch (0.1.x or 0.6), Lightning, CheXNet,
        MoCo or IRNet weights (.safetensors, .npz; .pth, .pt, .ckpt, .tar, .bin with torch), OUT a new folder for
        chexseg_jax.restore, classifier= and encoder_from=
export: IN is such a folder, or that of a run or a stage, OUT a new .safetensors, .npz or .pth with the peer's names

Model, options, normalisation and the outputs' names are in OUT's model.json, or in a JSON file beside OUT.
"""


def main(arguments: Sequence[str] | None = None) -> None:
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
        "--model",
        metavar="NAME",
        help="resnet18, densenet121, deeplabv3plus_resnet50, irnet... (needed for other than classifiers)",
    )
    parser.add_argument(
        "--labels",
        "--tasks",
        metavar=f"{'|'.join(ORDERS)}|FILE|NAME,NAME...",
        help="names and order of the outputs: csv as in CheXpert's (14) and CheXlocalize's tables (10), chexseg as in "
        "CheXseg's PyTorch program (14 or 10, imported in csv's order), nih as in CheXNet (14), xrv as in "
        "torchxrayvision (18); the path of a tasks.toml: its labels for a classifier, its tasks for a segmentation; or "
        "the names. Needed unless the file gives them: a JSON beside it, torchxrayvision's op_threshs, or ImageNet's "
        "1000 outputs",
    )
    parser.add_argument("--drop-head", action="store_true", help="leave out a classifier's last layer")
    parser.add_argument(
        "--normalisation",
        metavar="|".join((*NAMED, "MEAN,STD")),
        help="normalisation of the network's inputs: a name; or mean and standard deviation of intensities in [0, 1], "
        "or three of each. Needed unless the file gives it: a JSON beside it, a checkpoint of CheXseg's classifier, "
        "IRNet, torchxrayvision's op_threshs, or ImageNet's 1000 outputs",
    )
    parser.add_argument(
        "--stride-on",
        choices=["conv1", "conv2"],
        help="conv1 for v1 ResNet50s (default: conv2, torchvision's)",
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side of the network's images, in pixels (default: 320, or torchxrayvision's)",
    )
    flags = parser.parse_args(arguments)
    if flags.size is not None and flags.size < 1:
        raise InputError(f"--size {flags.size} must be at least 1")
    if flags.out.exists():
        raise InputError(f"{flags.out}: already exists; remove it or choose another name")
    if flags.source.is_dir():
        own = ("model", "labels", "drop_head", "normalisation", "stride_on", "size")
        if given := [name.replace("_", "-") for name in own if getattr(flags, name)]:
            raise InputError(
                f"--{given[0]} is for imports, but {flags.source} is a folder, which is exported; leave it out"
            )
        _export(flags.source, flags.out)
    else:
        _import(flags)


def _import(flags: argparse.Namespace) -> None:
    model = read_weights(
        flags.source,
        flags.model,
        labels=flags.labels,
        drop_head=flags.drop_head,
        normalisation=parse_normalisation(flags.normalisation) if flags.normalisation else None,
        stride_on=flags.stride_on,
        size=flags.size,
    )
    _save(flags.out, model)
    say(f"{flags.out}: written")


def _save(out: Path, model: Mapping[str, Any]) -> None:
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_model(part, **model)
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
