"""Predict radiographs and write what people look at: masks and overlays."""

import contextlib
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from chexseg_jax.data.chexlocalize import encode_masks, write_segmentations
from chexseg_jax.data.images import fit_image, fit_mask, read_radiograph, unfit_map
from chexseg_jax.errors import InputError
from chexseg_jax.progress import say, track
from chexseg_jax.report.figures import draw_overlays
from chexseg_jax.saved_model import Restored

#: Longest side of the images in an overlay, in pixels.
_OVERLAY = 768


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
