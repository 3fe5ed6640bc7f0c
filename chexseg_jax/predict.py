"""Segment radiographs: `python -m chexseg_jax.predict --checkpoint DIR --out DIR IMAGE...`.

Writes `segmentations.json` (CheXlocalize's format, at each image's full size) and one overlay PNG per image.
"""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chexseg_jax.data.chexlocalize import encode_masks, write_segmentations
from chexseg_jax.data.images import fit_image, fit_mask, read_radiograph, unfit_map
from chexseg_jax.data.layout import image_id
from chexseg_jax.errors import InputError, Parser, run_command
from chexseg_jax.processes import check_devices
from chexseg_jax.progress import say, track
from chexseg_jax.report.figures import draw_overlays
from chexseg_jax.saved_model import Restored, restore

#: Longest side of the images in an overlay, in pixels.
_OVERLAY = 768


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
    scores = Path(flags.checkpoint, "scores.json")  # a run's folder has it beside the model
    if data := scores.exists() and json.loads(scores.read_text()).get("data"):
        say(f"{flags.checkpoint}: a model trained on {data}")
    predict(model, find_images(flags.images), flags.out)


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Map image ids to files, for image files and for the JPEGs and PNGs below folders.

    Ids are those of a table (see `image_id`) by the path below the folder given: the root of a data set gives
    `patient_study_view`, a flat folder or a single file the file's name. Folders named as CheXpert's,
    `patient*/study*`, count wherever the path given starts.

    Raises:
      InputError: for a missing file, a folder without images, two images with the same id, or a name that is not UTF-8.
    """
    images: dict[str, Path] = {}
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
            if not files:
                raise InputError(f"{path}: a folder without a .jpg or .png; give a folder of radiographs")
        for file in files:
            if not file.is_file():
                raise InputError(f"{file}: no such image; check the path")
            parts = file.absolute().parts[-3:]
            if not (parts[0].startswith("patient") and parts[1].startswith("study")):
                parts = file.relative_to(path).parts or (file.name,)
            if (name := image_id(parts)) in images:
                raise InputError(f"{file}: has the id of {images[name]}, {name}; predict them separately")
            if name.encode(errors="replace").decode() != name:
                raise InputError(f"{str(file)!r}: its name is not UTF-8; rename it")
            images[name] = file
    return images


def predict(model: Restored, images: dict[str, Path], out: Path, *, batch_size: int = 8) -> None:
    """Write `out/segmentations.json` and `out/ID.png` for each image.

    Args:
      model: a segmentation with thresholds.
      images: id -> file.
      out: the folder, created if missing.
      batch_size: number of images read and predicted at a time.

    Raises:
      InputError: for an unreadable image; nothing is written then.
    """
    fresh = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Inside `out`: its parent may be on another disk, or not writable.
        scratch = tempfile.TemporaryDirectory(dir=out, prefix=".part.")
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}; give a writable folder") from None
    try:
        with scratch as part:
            _predict_into(Path(part), model, images, batch_size)
            for file in Path(part).iterdir():
                file.replace(out / file.name)
    except BaseException:
        if fresh:
            with contextlib.suppress(OSError):  # not empty: another process has written into it
                out.rmdir()
        raise
    say(f"{len(images)} images: {out / 'segmentations.json'}")


def _predict_into(part: Path, model: Restored, images: dict[str, Path], batch_size: int) -> None:
    limits = np.array([model.thresholds[task] for task in model.taxonomy.tasks])
    names, codes, changes = list(images), {}, Counter[str]()
    starts = range(0, len(names), batch_size)
    for start in track(starts, "predicting batches", len(starts)):
        batch = names[start : start + batch_size]
        read = [read_radiograph(images[name]) for name in batch]
        changes.update(change for image in read for change in image.changes)
        pixels = [image.grey for image in read]
        probabilities = model.predict(pixels, batch_size=batch_size)
        for name, image, maps in zip(batch, pixels, probabilities, strict=True):
            masks = unfit_map(maps, image.shape) > limits
            codes[name] = encode_masks(masks, model.taxonomy)
            side = min(_OVERLAY, max(image.shape))
            column = ("prediction", [fit_mask(masks, side)])
            radiograph = fit_image(image, side)
            draw_overlays(
                part / f"{name}.png", [radiograph], [name], [column], taxonomy=model.taxonomy, title=name
            )
    write_segmentations(part / "segmentations.json", codes, model.taxonomy)
    for change, times in changes.items():
        say(f"{times} of {len(names)} images {change}")


if __name__ == "__main__":
    run_command(main)
