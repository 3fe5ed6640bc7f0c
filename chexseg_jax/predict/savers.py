"""What `--save` writes: files of one image (`SAVERS`), and tables of all of them (`TABLES`)."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from chexseg_jax.data.chexlocalize import Rle, decode, read_segmentations, write_segmentations
from chexseg_jax.data.images import resize_map
from chexseg_jax.data.reference import Checks
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError
from chexseg_jax.files import written_aside
from chexseg_jax.predict.inputs import is_dicom
from chexseg_jax.predict.masks import area, boxes
from chexseg_jax.predict.overlay import draw_overlay
from chexseg_jax.predict.trust import doubt

#: Columns of summary.csv, one row an image and task; docs/predict.md describes them.
COLUMNS = (
    *("image", "task", "score", "threshold", "present", "pixels", "mm2", "boxes"),
    *("doubt", "image_doubt", "check", "unlike"),
)


class Radiograph(NamedTuple):
    """An image as the network and the overlay need it; its full size is not kept.

    Attributes:
      name: its id.
      source: its file.
      sha256: of the file.
      size: (height, width) in pixels.
      spacing: mm per pixel (row, column); None where unknown.
      fitted: at the network's size, padded.
      picture: within `SIDE` pixels, without padding.
      checks: whether it is like those that the model was trained on.
    """

    name: str
    source: Path
    sha256: str
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    fitted: UInt8[np.ndarray, "S S"]
    picture: UInt8[np.ndarray, "h w"]
    checks: Checks


@dataclass(frozen=True)
class Prediction:
    """The prediction of one image.

    Attributes:
      image: the radiograph.
      maps: probabilities in the network's frame, without padding.
      thresholds: task -> probability above which a pixel belongs to it.
      codes: task -> mask at full size.
      taxonomy: the tasks.
      model: its network and the digest of its weights; a phantom's says so.
    """

    image: Radiograph
    maps: Float32[np.ndarray, "s t K"]
    thresholds: Mapping[str, float]
    codes: Mapping[str, Rle]
    taxonomy: Taxonomy
    model: str

    def rows(self) -> list[dict[str, Any]]:
        """The image's rows of summary.csv."""
        rows, spacing, checks = [], self.image.spacing, self.image.checks
        limits = np.array([self.thresholds[task] for task in self.codes])
        doubts, image_doubt = doubt(self.maps, limits)
        for (task, code), score, own in zip(self.codes.items(), self.maps.max((0, 1)), doubts, strict=True):
            parts = "; ".join(" ".join(map(str, box)) for box in boxes(code)[:, :4].tolist())
            square = f"{area(code) * spacing[0] * spacing[1]:.1f}" if spacing else ""
            cells = (
                *(self.image.name, task, f"{score:.4f}", f"{self.thresholds[task]:g}"),
                *(int(bool(parts)), area(code), square, parts),
                *("" if np.isnan(value) else f"{value:.4f}" for value in (own, image_doubt)),
                *(checks.verdict, f"{checks.unlike:.2f}"),
            )
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
        return rows


def _save_masks(files: Sequence[Path], prediction: Prediction) -> None:
    for file, code in zip(files, prediction.codes.values(), strict=True):
        Image.fromarray(decode(code)).save(file)


def _save_maps(files: Sequence[Path], prediction: Prediction) -> None:
    maps = np.moveaxis(prediction.maps, -1, 0)
    named = zip(prediction.taxonomy.tasks, maps, strict=True)
    np.savez(files[0], **{f"{prediction.image.name}_{task}|map": values for task, values in named})


def _save_overlay(files: Sequence[Path], prediction: Prediction) -> None:
    shape = prediction.image.picture.shape
    masks = {  # at the overlay's size, without the mask at full size
        task: resize_map(prediction.maps[..., k], shape) > prediction.thresholds[task]
        for k, (task, code) in enumerate(prediction.codes.items())
        if area(code)
    }
    title = f"{prediction.image.name}: {prediction.model}"
    overlay = draw_overlay(prediction.image.picture, masks, prediction.taxonomy, title)
    overlay.save(files[0], compress_level=1)  # the default takes six times as long


def _save_dicomseg(files: Sequence[Path], prediction: Prediction) -> None:
    if not is_dicom(prediction.image.source):
        return
    from chexseg_jax.predict.dicom_seg import write_dicom_seg  # its libraries are an extra

    masks = np.stack([decode(code) for code in prediction.codes.values()], -1)
    write_dicom_seg(files[0], prediction.image.source, masks, prediction.taxonomy, model=prediction.model)


#: Name -> function that writes the files of one image, those that `files_of` names, or none.
SAVERS: Mapping[str, Callable[[Sequence[Path], Prediction], None]] = {
    "masks": _save_masks,
    "maps": _save_maps,
    "overlays": _save_overlay,
    "dicomseg": _save_dicomseg,
}


def files_of(saver: str, name: str, tasks: Iterable[str]) -> list[str]:
    """The files of one image below `--out`: one a task for masks, otherwise one.

    A task's folder has its name, with `%2F` and the like for what a folder's name cannot hold.
    """
    if saver == "masks":
        folders = (re.sub(r"^\.|[^\w ().,+-]", lambda sign: f"%{ord(sign[0]):02X}", task) for task in tasks)
        return [f"masks/{folder}/{name}.png" for folder in folders]
    return [
        {"maps": f"maps/{name}.npz", "overlays": f"{name}.png", "dicomseg": f"dicomseg/{name}.dcm"}[saver]
    ]


@dataclass(frozen=True)
class Table:
    """A file of all images.

    Attributes:
      file: its name below `--out`.
      part: the part of an image's record that it holds.
      read: returns what the file holds of each image.
      write: writes it, sorted by image.
    """

    file: str
    part: str
    read: Callable[[Path, Taxonomy], Mapping[str, Any]]
    write: Callable[[Path, Iterable[tuple[str, Any]], Taxonomy], None]

    def earlier(self, out: Path, taxonomy: Taxonomy) -> dict[str, Any]:
        """What the file holds of each image; nothing without it.

        Raises:
          InputError: for a file of another format or task set.
        """
        return dict(self.read(out / self.file, taxonomy)) if (out / self.file).exists() else {}

    def merge(self, out: Path, records: Iterable[Mapping[str, Any]], taxonomy: Taxonomy) -> None:
        """Write the images of the records, and all others that the file has."""
        images = self.earlier(out, taxonomy) | {record["name"]: record[self.part] for record in records}
        self.write(out / self.file, sorted(images.items()), taxonomy)


def _read_codes(file: Path, taxonomy: Taxonomy) -> Mapping[str, Any]:
    return read_segmentations(file, taxonomy).entries


def _read_rows(file: Path, _: Taxonomy) -> Mapping[str, Any]:
    images: dict[str, list[Mapping[str, Any]]] = {}
    table = csv.DictReader(io.StringIO(read_text(file, "a summary of predictions"), newline=""))
    if tuple(table.fieldnames or ()) != COLUMNS:
        raise InputError(f"{file}: its columns are not {', '.join(COLUMNS)}; move it, or give another --out")
    for row in table:
        images.setdefault(row["image"], []).append(row)
    return images


def _write_rows(file: Path, images: Iterable[tuple[str, Any]], _: Taxonomy) -> None:
    with written_aside(file) as table:
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for _name, rows in images:
            writer.writerows(rows)


TABLES: Mapping[str, Table] = {
    "json": Table("segmentations.json", "codes", _read_codes, write_segmentations),
    "csv": Table("summary.csv", "rows", _read_rows, _write_rows),
}
