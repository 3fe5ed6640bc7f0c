"""Stage: a split's radiographs (and masks) at the training size. What cannot be read is counted and named."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from chexseg_jax.artifact import artifact
from chexseg_jax.data import chexpert
from chexseg_jax.data.ahead import map_ahead
from chexseg_jax.data.chexlocalize import Segmentations
from chexseg_jax.data.images import fit_image, fit_mask, pack_masks, read_grey
from chexseg_jax.data.prepared import CODES, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.errors import InputError
from chexseg_jax.progress import say, track

#: Bytes kept of why an image was left out.
_REASON = 500


@dataclass(frozen=True)
class Split:
    """A split as its files hold it.

    Attributes:
      name: train, valid or test.
      studies: the table's rows.
      segmentations: the radiologists' masks; None for the weakly labelled.
      fingerprint: changes when the files do, see `sources.fingerprint`.
    """

    name: str
    studies: chexpert.Studies
    segmentations: Segmentations | None
    fingerprint: str


def prepare(store: Path, config: ConfigDict, split: Split) -> Path:
    """Decodes and letterboxes a split once: an artifact that `Prepared.load` opens.

    Of a split with masks, the annotated images are taken. Of one without, images that are missing or unreadable
    are left out, named in `left_out.json`, up to the share `config.max_missing`.

    Args:
      store: the folder of artifacts.
      config: `size` (pixels), `views` (frontal, lateral or both), `max_missing` (share of images).
      split: what to prepare.

    Raises:
      InputError: for too many unreadable images, an annotated image that is missing or not in the table, or
        masks of another size than their image.
    """
    key = {
        "split": split.name,
        "files": split.fingerprint,
        "size": config.size,
        "views": config.views,
        "max_missing": config.max_missing,
    }
    return artifact(
        store, f"prepare-{split.name}", key, lambda part: _prepare(part, config, split), collective=True
    )


def _prepare(directory: Path, config: ConfigDict, split: Split) -> None:
    studies, annotated = split.studies, split.segmentations
    if config.views != "both":
        studies = studies.take(np.flatnonzero(studies.frontal == (config.views == "frontal")))
    if annotated is not None:
        row = {image_id: i for i, image_id in enumerate(split.studies.ids)}
        if unknown := [image_id for image_id in annotated.ids if image_id not in row]:
            raise InputError(
                f"{annotated.path}: {len(unknown)} annotated images are not in the {split.name} table, "
                f"such as {unknown[0]}"
            )
        studies = studies.take([i for i, image_id in enumerate(studies.ids) if image_id in annotated])
    if not len(studies):
        raise InputError(f"the {split.name} split has no {config.views} image; see config.data.views")

    count, limit = len(studies), config.max_missing * len(studies)
    codes = {name: CODES[name] for name in ("images", "masks")[: 1 if annotated is None else 2]}

    def too_many(last: str) -> InputError:
        return InputError(
            f"more than {config.max_missing:.1%} of the {count} {split.name} images cannot be read "
            f"(config.data.max_missing); the last: {last}"
        )

    def make(rows: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
        found = map_ahead(lambda i: _row(studies, i, config.size, annotated), rows)
        missing = 0
        for row in track(found, f"reading {split.name} images", len(rows)):
            missing += bool(row["left_out"])
            if missing > limit:
                raise too_many(_text(row["left_out"].item()))
            yield row

    try:
        columns = write_rows(directory, count, {**codes, "sizes": "raw", "left_out": "raw"}, make)
        reasons = columns["left_out"][:].tolist()
        left_out = {studies.ids[i]: _text(reason) for i, reason in enumerate(reasons) if reason}
        if len(left_out) > limit:  # together: in the shares of several processes, or since a kill
            raise too_many(list(left_out.values())[-1])
    except InputError:  # what is wrong may be mended the next time: read all anew
        for name in codes:
            shutil.rmtree(directory / name, ignore_errors=True)
        raise
    if jax.process_index() == 0:
        (directory / "left_out.json").write_text(json.dumps(left_out, indent=1))
    if left_out:
        some = "; ".join(list(left_out.values())[:3])
        say(f"{split.name}: {len(left_out)} of {count} images left out (all in left_out.json): {some}")
    every = Prepared(
        studies.ids, columns["images"], studies.labels, columns["sizes"][:], columns.get("masks")
    )
    every.take([i for i in range(count) if studies.ids[i] not in left_out]).save(directory)


def _row(
    studies: chexpert.Studies, i: int, size: int, annotated: Segmentations | None
) -> dict[str, np.ndarray]:
    """The columns of a study; black and with the reason in `left_out` where it cannot be read, unless it must be."""
    path = studies.paths[i]
    try:
        image = read_grey(path)
    except InputError as error:
        if annotated is not None:
            raise
        reason = np.array(str(error).encode()[:_REASON], f"S{_REASON}")
        return {
            "images": np.zeros((size, size), np.uint8),
            "sizes": np.zeros(2, np.int32),
            "left_out": reason,
        }
    row = {
        "images": fit_image(image, size),
        "sizes": np.array(image.shape, np.int32),
        "left_out": np.array(b"", f"S{_REASON}"),
    }
    if annotated is not None:
        annotated.check_size(studies.ids[i], image.shape, path)
        row["masks"] = pack_masks(fit_mask(annotated.masks(studies.ids[i]), size))
    return row


def _text(reason: bytes) -> str:
    return reason.decode("utf-8", "ignore")  # it may be cut within a character
