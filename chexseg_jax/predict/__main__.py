"""Segment radiographs with a trained model, and add the results to a folder.

files in --out, by --save:
  json       segmentations.json: masks of all images at full size, in CheXlocalize's format
  csv        summary.csv: per image and task its score, area and boxes
  overlays   ID.png: the radiograph, and beside it its masks with their legend
  masks      masks/TASK/ID.png: one mask at full size, one bit a pixel
  maps       maps/ID.npz: probabilities, for python -m chexseg_jax.evaluation --maps OUT/maps
  dicomseg   dicomseg/ID.dcm: DICOM Segmentation objects, of DICOM images

The same command continues a call that was killed. A later call adds its images; those whose file,
model and threshold are the same are reused. docs/predict.md has the details.

exit codes: 0 all images are predicted, 1 all but those that are named, 2 nothing was done
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chexseg_jax.errors import InputError, Parser, run_command
from chexseg_jax.predict.inputs import find_images
from chexseg_jax.predict.outputs import DEFAULT, predict
from chexseg_jax.predict.savers import SAVERS, TABLES
from chexseg_jax.processes import check_devices
from chexseg_jax.progress import say
from chexseg_jax.saved_model import Restored, restore


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser(
        prog="chexseg predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several: dict[str, Any] = {
        "nargs": "+",
        "type": Path,
        "metavar": "IMAGE",
        "action": "extend",
        "default": [],
    }
    parser.add_argument(
        "images",
        **several | {"nargs": "*"},
        help="radiographs, folders of them, or CSV files with a column Path; JPEG, PNG, TIFF or DICOM",
    )
    parser.add_argument("-i", "--input", dest="more", **several, help="the same")
    parser.add_argument(
        "-m",
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="folder of a run or of a segmentation's artifact",
    )
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--save",
        default=",".join(DEFAULT),
        metavar="NAMES",
        help=f"what to write, with commas between ({','.join(DEFAULT)})",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="probability above which a pixel belongs to "
        "a task; each task's own, chosen in training, if not given",
    )
    parser.add_argument(
        "--overlays", default="all", metavar="N", help="draw N overlays: all, none or a number (all)"
    )
    flags = parser.parse_args(arguments)
    save, overlays = _parse(flags)
    paths = [*flags.images, *flags.more]
    if not paths:
        raise InputError("no radiograph: give images, folders or a CSV file; --help lists the flags")
    if flags.out.exists() and not flags.out.is_dir():
        raise InputError(f"--out {flags.out}: is a file; give a folder")
    images = find_images(paths, flags.out)
    check_devices()
    model = _open(flags.checkpoint)
    predict(model, images, flags.out, save=save, threshold=flags.threshold, overlays=overlays)


def _parse(flags: argparse.Namespace) -> tuple[list[str], int | None]:
    """The names of --save, and the number of overlays (None: all)."""
    save = [name.strip() for name in flags.save.split(",") if name.strip()]
    known = [*TABLES, *SAVERS]
    if wrong := [name for name in save if name not in known] or [""] * (not save):
        raise InputError(f"--save {wrong[0]!r} must be one or several of {','.join(known)}")
    if flags.threshold is not None and not 0 <= flags.threshold < 1:
        raise InputError(f"--threshold {flags.threshold} must be at least 0 and below 1")
    if flags.overlays not in ("all", "none") and not flags.overlays.isdecimal():
        raise InputError(f"--overlays {flags.overlays} must be all, none or a number")
    return save, None if flags.overlays == "all" else int(flags.overlays.replace("none", "0"))


def _open(checkpoint: str) -> Restored:
    """Restore a segmentation, and say what it was trained on.

    Raises:
      InputError: for another kind of model.
    """
    model = restore(checkpoint)
    if not model.thresholds or model.tasks != model.taxonomy.tasks:
        raise InputError(
            f"{checkpoint}: holds a {model.config.name}, not a segmentation; give a segmentation's folder"
        )
    say(f"{checkpoint}: {model.provenance}")
    return model


if __name__ == "__main__":
    run_command(main)
