"""Stage: a split's radiographs (and masks) at the training size. Unreadable images are counted and named."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from chexseg_jax.data.ahead import map_ahead
from chexseg_jax.data.chexlocalize import Segmentations
from chexseg_jax.data.chexpert import Studies
from chexseg_jax.data.images import fit_image, fit_mask, pack_masks, read_radiograph
from chexseg_jax.data.prepared import CODES, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.split import Split
from chexseg_jax.errors import InputError
from chexseg_jax.files import sha256, written_aside
from chexseg_jax.progress import say, track

#: Characters kept of the reason why an image was left out, and bytes of the row that holds it.
_REASON, _ROW = 300, 1000
#: Of each image, [size in bytes, time of the last change, sha256]; and of those whose time alone has changed since.
_FILES, _TOUCHED = "files.json", "touched.json"


def prepare(
    part: Path, *, config: ConfigDict, split: Split, changed: Mapping[str, str] | None = None
) -> None:
    """Decode and letterbox a split once, as a set that `data.prepared.Prepared.load` opens.

    All images of the table are kept, those with and without masks; `Prepared.listed` tells them apart. An image
    without masks that is missing or unreadable is left out and named in `left_out.json`; above the share
    `config.max_missing` of the images, the stage fails. Changes made in reading (see `read_radiograph`) are counted.

    Args:
      part: the artifact's folder.
      config: `size` (pixels), `views` (frontal, lateral or both), `max_missing` (share of images).
      split: the files.
      changed: what `changed_images` found in the artifact without it; it names this one.

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
            reason = json.loads(row["files"].item()).get("left_out")
            missing += reason is not None
            if missing > limit:
                raise too_many(str(reason))
            yield row

    try:
        columns = write_rows(part, count, {**codes, "sizes": "raw", "files": "raw"}, make)
        files = dict(zip(studies.ids, map(json.loads, columns["files"][:].tolist()), strict=True))
        left_out = {image_id: file["left_out"] for image_id, file in files.items() if "left_out" in file}
        if len(left_out) > limit:  # summed over processes, or over a killed call and this one
            raise too_many(list(left_out.values())[-1])
    except InputError:  # the user may fix the files before the next call: read all of them again
        for name in codes:
            shutil.rmtree(part / name, ignore_errors=True)
        raise
    if jax.process_index() == 0:
        (part / "left_out.json").write_text(json.dumps(left_out, indent=1))
        (part / _FILES).write_text(json.dumps({i: file["content"] for i, file in files.items()}))
    if left_out:
        some = "; ".join(list(left_out.values())[:3])
        say(f"{split.name}: {len(left_out)} of {count} images left out (all in left_out.json): {some}")
    changes = Counter(change for file in files.values() for change in file.get("changes", ()))
    for change, times in changes.items():
        say(f"{split.name}: {times} of {count} images {change}")
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


def changed_images(directory: Path, split: Split, *, note: bool = True) -> dict[str, str]:
    """The images whose content is no longer that of a prepared set: id -> sha256.

    Only files whose size or time differ are read. If their content is the same, the times are noted for the next call.

    Args:
      directory: an artifact of `prepare`.
      split: what it was made from.
      note: False writes nothing.
    """
    noted = [
        json.loads(path.read_text()) for name in (_FILES, _TOUCHED) if (path := directory / name).exists()
    ]
    known = {**noted[0], **noted[-1]}
    paths = {i: path for i, path in zip(split.studies.ids, split.studies.paths, strict=True) if i in known}
    with ThreadPoolExecutor(16) as pool:  # each of these is a wait on a network file system
        stats = dict(zip(paths, pool.map(_stat, paths.values()), strict=True))
        touched = [i for i in paths if stats[i] != known[i][:2]]
        hashes = dict(zip(touched, pool.map(sha256, (paths[i] for i in touched)), strict=True))
    changed = {i: value for i, value in hashes.items() if value != known[i][2]}
    if changed:
        some = ", ".join(list(changed)[:3])
        say(f"{split.name}: {len(changed)} of {len(known)} images changed since they were prepared: {some}")
    elif touched and note:
        # Another user's work directory may be read-only: the files are then read again the next time.
        with suppress(OSError), written_aside(directory / _TOUCHED) as file:
            json.dump({i: [*stats[i], known[i][2]] for i in paths}, file)
    return changed


def _selected(split: Split, views: str) -> Studies:
    """Select the rows of the wanted views, and print how many others there are."""
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
    if others := set(split.studies.ids) - set(studies.ids):
        masked = "" if annotated is None else f", {sum(i in annotated for i in others)} of them with masks"
        kind = "lateral" if views == "frontal" else "frontal"
        say(
            f"{split.name}: {len(others)} of {len(split.studies)} images are {kind} and left out{masked}; see "
            "config.data.views"
        )
    return studies


def _row(studies: Studies, i: int, size: int, annotated: Segmentations | None) -> dict[str, np.ndarray]:
    """The columns of one study; for an unreadable image without masks, black pixels and the reason in `files`.

    An image that `annotated` does not list has all-zero masks.
    """
    image_id, path = studies.ids[i], studies.paths[i]
    listed = annotated is not None and image_id in annotated
    row: dict[str, np.ndarray] = {
        "images": np.zeros((size, size), np.uint8),
        "sizes": np.zeros(2, np.int32),
    }
    if annotated is not None:
        row["masks"] = np.zeros((size, size, annotated.taxonomy.planes), np.uint8)
    stat = _stat(path)
    try:
        image = read_radiograph(path)
    except InputError as error:
        if listed:
            raise
        return row | {"files": _text(content=[*stat, sha256(path)], left_out=str(error)[:_REASON])}
    row |= {"images": fit_image(image.grey, size), "sizes": np.array(image.grey.shape, np.int32)}
    if annotated is not None and listed:
        annotated.check_size(image_id, image.grey.shape, path)
        row["masks"] = pack_masks(fit_mask(annotated.masks(image_id), size))
    return row | {"files": _text(content=[*stat, image.sha256], changes=image.changes)}


def _text(**values: Any) -> np.ndarray:
    """Values as JSON in a fixed number of bytes; a long reason in a script that JSON escapes is cut further."""
    while len(text := json.dumps(values).encode()) > _ROW:
        values["left_out"] = values["left_out"][:-50]
    return np.array(text, f"S{_ROW}")


def _stat(path: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds; of a missing file, which is left out, -1 and 0."""
    try:
        stat = os.stat(path)
    except OSError:
        return [-1, 0]
    return [stat.st_size, stat.st_mtime_ns]
