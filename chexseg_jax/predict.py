"""Images to masks: `python -m chexseg_jax.predict --checkpoint DIR --out DIR IMAGE...`.

Writes `segmentations.json` (CheXlocalize's format, at each image's full size) and one overlay PNG an image.
"""

import argparse
import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from chexseg_jax.data.chexlocalize import write_segmentations
from chexseg_jax.data.images import fit_image, fit_mask, read_grey, unfit_map
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.errors import InputError, refuse, run_command
from chexseg_jax.progress import say, track
from chexseg_jax.report.figures import draw_overlays
from chexseg_jax.saved_model import Restored, restore

#: Side of an overlay's pictures, in pixels.
_OVERLAY = 768


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m chexseg_jax.predict", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run's folder, or a segmentation's artifact")
    parser.add_argument("--out", required=True, type=Path, help="folder for segmentations.json and overlays")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="radiographs, or folders of them"
    )
    parser.error = refuse
    given = parser.parse_args(arguments)
    if given.out.exists() and not given.out.is_dir():
        raise InputError(f"--out {given.out}: is a file; give a folder")
    model = restore(given.checkpoint)
    if tuple(model.tasks) != TASKS or not model.thresholds:
        raise InputError(
            f"{given.checkpoint}: holds a {model.config.name}, not a segmentation of the ten tasks"
        )
    scores = Path(given.checkpoint, "scores.json")  # beside the model in a run's folder
    if data := scores.exists() and json.loads(scores.read_text()).get("data"):
        say(f"{given.checkpoint}: a model trained on {data}")
    predict(model, find_images(given.images), given.out)


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Image id -> file, for files and for the JPEGs and PNGs below folders.

    Ids are CheXlocalize's (`patient64541_study1_view1_frontal`) for files laid out as CheXpert's, else the
    file's name without its ending.

    Raises:
      InputError: for a path that is not there, a folder without images, and two images of one id.
    """
    found: dict[str, Path] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
            if not files:
                raise InputError(f"{path}: a folder without a .jpg or .png")
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: no such image")
            parts = file.absolute().parts[-3:]
            chexpert = parts[0].startswith("patient") and parts[1].startswith("study")
            image_id = "_".join((*parts[:2], file.stem)) if chexpert else file.stem
            if image_id in found:
                raise InputError(
                    f"{file}: its id {image_id} is that of {found[image_id]}; predict them apart"
                )
            found[image_id] = file
    return found


def predict(model: Restored, images: dict[str, Path], out: Path, *, batch_size: int = 8) -> None:
    """Writes `out/segmentations.json` and `out/ID.png` for each image.

    Args:
      model: a segmentation with thresholds.
      images: id -> file.
      out: the folder, made if need be.
      batch_size: images read and predicted at a time.

    Raises:
      InputError: for an image that cannot be read; nothing is written then.
    """
    limits = np.array([model.thresholds[task] for task in TASKS])
    names = list(images)

    def masks(overlays: Path) -> Iterator[tuple[str, Bool[np.ndarray, "H W 10"]]]:
        for start in track(
            range(0, len(names), batch_size), "predicting batches", -(-len(names) // batch_size)
        ):
            batch = names[start : start + batch_size]
            pixels = [read_grey(images[name]) for name in batch]
            for name, image, maps in zip(
                batch, pixels, model.predict(pixels, batch_size=batch_size), strict=True
            ):
                full = unfit_map(maps, image.shape) > limits
                side = min(_OVERLAY, max(image.shape))
                shown = ("prediction", [fit_mask(full, side)])
                draw_overlays(overlays / f"{name}.png", [fit_image(image, side)], [name], [shown], title=name)
                yield name, full

    fresh = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Within it: the folder around it may be on another disk, or not ours to write to.
        scratch = tempfile.TemporaryDirectory(dir=out, prefix=".part.")
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; give a folder to write to") from None
    try:
        with scratch as aside:
            write_segmentations(Path(aside) / "segmentations.json", masks(Path(aside)))
            for file in Path(aside).iterdir():
                file.replace(out / file.name)
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):  # something is in it by now
                out.rmdir()
        raise
    say(f"{len(names)} images: {out / 'segmentations.json'}")


if __name__ == "__main__":
    run_command(main)
