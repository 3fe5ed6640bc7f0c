"""Stage: a split's radiographs (and masks) at the training size. Unreadable images are counted and named."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from chexseg_jax.data.ahead import map_ahead
from chexseg_jax.data.chexlocalize import Segmentations
from chexseg_jax.data.chexpert import Studies
from chexseg_jax.data.images import fit_image, fit_mask, pack_masks, read_grey
from chexseg_jax.data.prepared import CODES, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.split import Split
from chexseg_jax.errors import InputError
from chexseg_jax.progress import say, track

#: Bytes kept of the reason why an image was left out.
_REASON = 500


def prepare(part: Path, *, config: ConfigDict, split: Split) -> None:
    """Decode and letterbox a split once, as a set that `data.prepared.Prepared.load` opens.

    All images of the table are kept, those with and without masks; `Prepared.listed` tells them apart. An image
    without masks that is missing or unreadable is left out and named in `left_out.json`; above the share
    `config.max_missing` of the images, the stage fails.

    Args:
      part: the artifact's folder.
      config: `size` (pixels), `views` (frontal, lateral or both), `max_missing` (share of images).
      split: the files.

    Raises:
      InputError: for too many unreadable images, an image with masks that is unreadable or not in the table, masks that
        differ in size from their image, or a split without an image of the wanted views (with masks, where the split
        has any).
    """
    studies, annotated = _selected(split, config.views), split.segmentations
    count, limit = len(studies), config.max_missing * len(studies)
    codes = {name: CODES[name] for name in ("images", "masks")[: 1 if annotated is None else 2]}

    def too_many(last: str) -> InputError:
        return InputError(
            f"more than {config.max_missing:.1%} of the {count} {split.name} images cannot be read "
            f"(config.data.max_missing); the last: {last}"
        )

    def make(rows: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
        columns = map_ahead(lambda i: _row(studies, int(i), config.size, annotated), rows)
        missing = 0
        for row in track(columns, f"reading {split.name} images", len(rows)):
            missing += bool(row["left_out"])
            if missing > limit:
                raise too_many(_text(row["left_out"].item()))
            yield row

    try:
        columns = write_rows(part, count, {**codes, "sizes": "raw", "left_out": "raw"}, make)
        reasons = columns["left_out"][:].tolist()
        left_out = {studies.ids[i]: _text(reason) for i, reason in enumerate(reasons) if reason}
        if len(left_out) > limit:  # summed over processes, or over a killed call and this one
            raise too_many(list(left_out.values())[-1])
    except InputError:  # the user may fix the files before the next call: read all of them again
        for name in codes:
            shutil.rmtree(part / name, ignore_errors=True)
        raise
    if jax.process_index() == 0:
        (part / "left_out.json").write_text(json.dumps(left_out, indent=1))
    if left_out:
        some = "; ".join(list(left_out.values())[:3])
        say(f"{split.name}: {len(left_out)} of {count} images left out (all in left_out.json): {some}")
    known = listed = None
    if annotated is not None:
        known = np.array([annotated.known(image_id) for image_id in studies.ids])
        listed = np.array([image_id in annotated for image_id in studies.ids])
    every = Prepared(
        studies.ids,
        columns["images"],
        studies.labels,
        columns["sizes"][:],
        studies.taxonomy,
        columns.get("masks"),
        known,
        listed,
    )
    every.take([i for i in range(count) if studies.ids[i] not in left_out]).save(part)


def _selected(split: Split, views: str) -> Studies:
    """The rows of the wanted views."""
    studies, annotated = split.studies, split.segmentations
    if views != "both":
        studies = studies.take(np.flatnonzero(studies.frontal == (views == "frontal")))
    if annotated is not None:
        rows = set(split.studies.ids)
        if unknown := [image_id for image_id in annotated.ids if image_id not in rows]:
            raise InputError(
                f"{annotated.path}: {len(unknown)} annotated images are not in the {split.name} table, "
                f"such as {unknown[0]}"
            )
        if len(studies) and not any(image_id in annotated for image_id in studies.ids):
            raise InputError(
                f"{annotated.path}: no masks of a {views} image of the {split.name} table; see config.data.views"
            )
    if not len(studies):
        raise InputError(f"the {split.name} split has no {views} image; see config.data.views")
    return studies


def _row(studies: Studies, i: int, size: int, annotated: Segmentations | None) -> dict[str, np.ndarray]:
    """The columns of one study; for an unreadable image without masks, black pixels and the reason in `left_out`.

    An image that `annotated` does not list has all-zero masks.
    """
    image_id, path = studies.ids[i], studies.paths[i]
    listed = annotated is not None and image_id in annotated
    row: dict[str, np.ndarray] = {
        "images": np.zeros((size, size), np.uint8),
        "sizes": np.zeros(2, np.int32),
        "left_out": np.array(b"", f"S{_REASON}"),
    }
    if annotated is not None:
        row["masks"] = np.zeros((size, size, annotated.taxonomy.planes), np.uint8)
    try:
        image = read_grey(path)
    except InputError as error:
        if listed:
            raise
        return row | {"left_out": np.array(str(error).encode()[:_REASON], f"S{_REASON}")}
    row |= {"images": fit_image(image, size), "sizes": np.array(image.shape, np.int32)}
    if annotated is not None and listed:
        annotated.check_size(image_id, image.shape, path)
        row["masks"] = pack_masks(fit_mask(annotated.masks(image_id), size))
    return row


def _text(reason: bytes) -> str:
    return reason.decode("utf-8", "ignore")  # it may be cut within a character
