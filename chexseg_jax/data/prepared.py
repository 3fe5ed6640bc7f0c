"""The prepared form of a set of radiographs: arrays at the training size, on disk, read at random.

One folder holds `ids.json`, `labels.npy` [N,14], `sizes.npy` [N,2] (the full height and width), and as records (see
`data.records`) `images` [S,S] uint8 and, where masks are known, `masks` [S,S] uint16 (bit k = TASKS[k]).
`images.rows.npy` [N] then says which record is whose; `images` may be a link to those of another set. Decoding and
resizing are paid once. A memory map would be read twice as fast, which no training waits for, but its pages count as
the process's memory, which then grows with the set.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8, UInt16

from chexseg_jax.data.images import Frame, unpack_masks
from chexseg_jax.data.records import Code, Records, write_rows
from chexseg_jax.data.taxonomy import label_indices
from chexseg_jax.errors import InputError

Rows = TypeVar("Rows", np.ndarray, Records)
#: The arrays that are stored as records.
CODES: dict[str, Code] = {"images": "raw", "masks": "runs"}


@dataclass(frozen=True)
class Prepared:
    """Radiographs at the training size, all arrays aligned on N.

    Attributes:
      ids: such as `patient64541_study1_view1_frontal`.
      images: grey, letterboxed.
      labels: CheXpert's fourteen: 1, 0, -1 uncertain, nan blank.
      sizes: full height and width of the files.
      masks: bit-planes, bit k = TASKS[k]; None where no mask is known.

    `images` and `masks` of a loaded set are `Records`: index them for arrays, a few rows at a time.
    """

    ids: tuple[str, ...]
    images: UInt8[np.ndarray, "N S S"] | Records
    labels: Float[np.ndarray, "N 14"]
    sizes: Int[np.ndarray, "N 2"]
    masks: UInt16[np.ndarray, "N S S"] | Records | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """S, the side of the square images in pixels."""
        return self.images.shape[1]

    @property
    def windows(self) -> Int32[np.ndarray, "N 4"]:
        """Where the pictures lie in the squares: first row and column, numbers of rows and columns."""
        frames = [Frame(*map(int, full), self.size) for full in self.sizes]
        return np.array([(*frame.corner, *frame.content) for frame in frames], np.int32).reshape(-1, 4)

    def take(self, rows: Sequence[int]) -> "Prepared":
        """The given rows; what is on disk stays there."""
        rows = np.asarray(rows, int)
        return Prepared(
            tuple(self.ids[i] for i in rows),
            _take(self.images, rows),
            self.labels[rows],
            self.sizes[rows],
            None if self.masks is None else _take(self.masks, rows),
        )

    def with_masks(self, masks: UInt16[np.ndarray, "N S S"] | Records) -> "Prepared":
        """The same radiographs with other masks (pseudo-masks, say)."""
        return replace(self, masks=masks)

    def shown(self) -> Bool[np.ndarray, "N 10"]:
        """Which tasks each radiograph's masks show."""
        return unpack_masks(np.array([np.bitwise_or.reduce(m, axis=None) for m in self.masks], np.uint16))

    def save(self, directory: Path) -> None:
        """Writes the set into `directory`, a sibling of the folders that any records of it are in.

        Arrays are written. Of records, those in `directory` stay as they are and others are linked to.
        """
        for name, code in CODES.items():
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                write_rows(
                    directory,
                    len(self),
                    {name: code},
                    lambda rows, n=name, v=value: ({n: v[i]} for i in rows),
                )
        if jax.process_index():
            return
        for name in CODES:
            value = getattr(self, name)
            if isinstance(value, Records):
                np.save(directory / f"{name}.rows.npy", value.rows)
                if value.folder != directory / name:
                    (directory / name).unlink(missing_ok=True)
                    (directory / name).symlink_to(os.path.relpath(value.folder, directory))
        (directory / "ids.json").write_text(json.dumps(self.ids))
        np.save(directory / "labels.npy", self.labels)
        np.save(directory / "sizes.npy", self.sizes)

    @classmethod
    def load(cls, directory: Path) -> "Prepared":
        """Opens what `save` wrote; images and masks stay on disk.

        Raises:
          InputError: naming what is not there: the set, the records of a set that this one links to, or a chunk.
        """
        if not (directory / "ids.json").exists():
            raise InputError(f"{directory}: no prepared set (no ids.json); name an artifact of prepare")
        return cls(
            tuple(json.loads((directory / "ids.json").read_text())),
            _open(directory, "images"),
            np.load(directory / "labels.npy"),
            np.load(directory / "sizes.npy"),
            _open(directory, "masks") if os.path.lexists(directory / "masks") else None,
        )


@dataclass(frozen=True)
class LabelSource:
    """Random access to {"image" [S,S] uint8, "targets" [14], "weights" [14]} for a classifier."""

    prepared: Prepared
    targets: Float[np.ndarray, "N 14"]
    weights: Float[np.ndarray, "N 14"]

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {
            "image": np.asarray(self.prepared.images[row]),
            "targets": self.targets[row],
            "weights": self.weights[row],
        }


@dataclass(frozen=True)
class MaskSource:
    """Random access to {"image" [S,S] uint8, "masks" [S,S] uint16 bit-planes} for a segmentation."""

    prepared: Prepared

    def __len__(self) -> int:
        return len(self.prepared)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {
            "image": np.asarray(self.prepared.images[row]),
            "masks": np.asarray(self.prepared.masks[row]),
        }


@dataclass(frozen=True)
class ImageSource:
    """Random access to {"image" [S,S] uint8} alone."""

    images: UInt8[np.ndarray, "N S S"] | Records

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {"image": np.asarray(self.images[row])}


def task_labels(labels: Float[np.ndarray, "N 14"]) -> Float[np.ndarray, "N 10"]:
    """The ten tasks' columns of CheXpert's fourteen."""
    return labels[:, label_indices()]


def _take(values: Rows, rows: Int[np.ndarray, " M"]) -> Rows:
    return values.take(rows) if isinstance(values, Records) else values[rows]


def _open(directory: Path, name: str) -> Records:
    records = Records.open(directory / name)
    rows = directory / f"{name}.rows.npy"
    return records.take(np.load(rows)) if rows.exists() else records
