"""Segment radiographs: `python -m chexseg_jax.predict --checkpoint DIR --out DIR IMAGE...`.

Writes `segmentations.json` (CheXlocalize's format, at each image's full size) and one overlay PNG per image.
"""

from collections.abc import Sequence
from pathlib import Path

from chexseg_jax.errors import InputError, Parser, run_command
from chexseg_jax.predict.inputs import find_images
from chexseg_jax.predict.outputs import predict
from chexseg_jax.processes import check_devices
from chexseg_jax.progress import say
from chexseg_jax.saved_model import restore


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser(prog="python -m chexseg_jax.predict", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="folder of a run or of a segmentation's artifact")
    parser.add_argument("--out", required=True, type=Path, help="folder for segmentations.json and overlays")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="radiographs, or folders of them"
    )
    flags = parser.parse_args(arguments)
    if flags.out.exists() and not flags.out.is_dir():
        raise InputError(f"--out {flags.out}: is a file; give a folder")
    check_devices()
    model = restore(flags.checkpoint)
    if not model.thresholds or model.tasks != model.taxonomy.tasks:
        raise InputError(
            f"{flags.checkpoint}: holds a {model.config.name}, not a segmentation; give a segmentation's folder"
        )
    say(f"{flags.checkpoint}: {model.provenance}")
    predict(model, find_images(flags.images), flags.out)


if __name__ == "__main__":
    run_command(main)
