"""The prepared form of a set of radiographs: arrays at the training size, on disk, read at random.

A folder holds `ids.json`, `taxonomy.json`, `labels.npy` [N,L], `sizes.npy` [N,2] (the full height and width),
`known.npy` [N,K], `listed.npy` [N], and as records (see `data.records`) `images` [S,S] uint8 and, where there are
masks, `masks` [S,S,P] bit-planes. `images.rows.npy` [N] maps rows to records. `images.folder` names those of another
set, without a link, which some file systems do not have. Images are decoded and resized once. A memory map would be
read twice as fast, but no training waits for that, and its pages count as the process's memory, which would then grow
with the set.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Shaped, UInt8

from chexseg_jax.data.images import Frame, unpack_masks
from chexseg_jax.data.records import Code, Records, write_rows
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.errors import InputError

#: The arrays that are stored as records.
CODES: dict[str, Code] = {"images": "raw", "masks": "runs"}


class Examples(Sequence):
    """Random access to aligned columns as dicts: `Examples(image=images, masks=masks)[3]["image"]` is `images[3]`."""

    def __init__(self, **columns: Shaped[np.ndarray, "N ..."] | Records):
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row) -> dict[str, np.ndarray]:  # type: ignore[override]  # one row, no slices
        return {name: np.asarray(column[row]) for name, column in self.columns.items()}

    def take(self, rows: Int[np.ndarray, " M"]) -> "Examples":
        """Select rows; records stay on disk."""
        return Examples(**{name: _take(column, rows) for name, column in self.columns.items()})


@dataclass(frozen=True)
class Prepared:
    """Radiographs at the training size, all arrays aligned on N.

    Attributes:
      ids: such as `patient64541_study1_view1_frontal`.
      images: grey, letterboxed.
      labels: 1, 0, -1 uncertain, nan blank, in the taxonomy's order.
      sizes: full height and width of the files.
      taxonomy: labels and tasks.
      masks: bit-planes, see `data.images.pack_masks`; None for a set without masks.
      known: whether the mask of a task is known. An unknown mask has no weight in losses, thresholds and scores.
      listed: whether the image is in the segmentations file. IoU and training use only these images; AUROC and
        predictions use all. None: all if there are masks, else none.

    `images` and `masks` of a loaded set are `Records`: index them for arrays, a few rows at a time.
    """

    ids: tuple[str, ...]
    images: UInt8[np.ndarray, "N S S"] | Records
    labels: Float[np.ndarray, "N L"]
    sizes: Int[np.ndarray, "N 2"]
    taxonomy: Taxonomy
    masks: UInt8[np.ndarray, "N S S P"] | Records | None = None
    known: Bool[np.ndarray, "N K"] | None = None
    listed: Bool[np.ndarray, " N"] | None = None

    def __post_init__(self):
        if self.known is None:
            everything = np.full((len(self.ids), len(self.taxonomy.tasks)), self.masks is not None)
            object.__setattr__(self, "known", everything)
        if self.listed is None:
            object.__setattr__(self, "listed", np.full(len(self.ids), self.masks is not None))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """S, the side of the square images in pixels."""
        return self.images.shape[1]

    @property
    def windows(self) -> Int32[np.ndarray, "N 4"]:
        """The pictures' places in the squares: first row and column, numbers of rows and columns.

        Computed for all images at each call; `take` some first.
        """
        frames = [Frame(int(height), int(width), self.size) for height, width in self.sizes]
        return np.array([(*frame.corner, *frame.content) for frame in frames], np.int32).reshape(-1, 4)

    @property
    def task_labels(self) -> Float[np.ndarray, "N K"]:
        """The columns of the labels that speak for the tasks."""
        return self.labels[:, self.taxonomy.label_indices]

    def take(self, rows: Sequence[int] | Int[np.ndarray, " M"]) -> "Prepared":
        """Select rows; records stay on disk."""
        rows = np.asarray(rows, int)
        return replace(
            self,
            ids=tuple(self.ids[i] for i in rows),
            images=_take(self.images, rows),
            labels=self.labels[rows],
            sizes=self.sizes[rows],
            masks=None if self.masks is None else _take(self.masks, rows),
            known=self.known[rows],
            listed=self.listed[rows],
        )

    def with_masks(
        self,
        masks: UInt8[np.ndarray, "N S S P"] | Records | None,
        known: Bool[np.ndarray, "N K"] | None = None,
    ) -> "Prepared":
        """The same radiographs with other masks, all known unless stated, and all listed."""
        return replace(self, masks=masks, known=known, listed=None)

    def read_masks(self, rows: int | slice | Int[np.ndarray, " M"]) -> Bool[np.ndarray, "*M S S K"]:
        """The masks of one image or of some."""
        return unpack_masks(self.masks[rows], len(self.taxonomy.tasks))

    def has_mask(self) -> Bool[np.ndarray, "N K"]:
        """Whether each image has a known mask with a pixel, by task."""
        any_pixel = [np.bitwise_or.reduce(planes, axis=(0, 1)) for planes in self.masks]
        planes = np.array(any_pixel, np.uint8).reshape(len(self), self.taxonomy.planes)
        return unpack_masks(planes, len(self.taxonomy.tasks)) & self.known

    def save(self, directory: Path) -> None:
        """Write the set into `directory`, a sibling of the folders with its records.

        Arrays are written. Records in `directory` stay as they are; others are named.
        """
        for name, code in CODES.items():
            value = getattr(self, name)
            if isinstance(value, np.ndarray):

                def rows_of(rows, name=name, value=value):
                    return ({name: value[i]} for i in rows)

                write_rows(directory, len(self), {name: code}, rows_of)
        if jax.process_index():
            return
        for name in CODES:
            value = getattr(self, name)
            if isinstance(value, Records):
                np.save(directory / f"{name}.rows.npy", value.rows)
                if value.folder != directory / name:
                    (directory / f"{name}.folder").write_text(os.path.relpath(value.folder, directory))
        (directory / "ids.json").write_text(json.dumps(self.ids))
        (directory / "taxonomy.json").write_text(json.dumps(self.taxonomy.to_dict(), indent=1))
        for name in ("labels", "sizes", "known", "listed"):
            np.save(directory / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, directory: Path) -> "Prepared":
        """Open a saved set; images and masks stay on disk.

        Raises:
          InputError: naming a missing set, the missing records of a set that this one names, or a missing chunk.
        """
        if not (directory / "ids.json").exists():
            raise InputError(f"{directory}: not a prepared set (no ids.json); give an artifact of prepare")
        labels, sizes, known, listed = (
            np.load(directory / f"{name}.npy") for name in ("labels", "sizes", "known", "listed")
        )
        return cls(
            tuple(json.loads((directory / "ids.json").read_text())),
            _open(directory, "images"),
            labels,
            sizes,
            Taxonomy.from_dict(json.loads((directory / "taxonomy.json").read_text())),
            _open(directory, "masks") if any(directory.glob("masks*")) else None,
            known,
            listed,
        )


def _take(values: np.ndarray | Records, rows: Int[np.ndarray, " M"]) -> np.ndarray | Records:
    return values.take(rows) if isinstance(values, Records) else values[rows]


def _open(directory: Path, name: str) -> Records:
    folder, other = directory / name, directory / f"{name}.folder"
    if other.exists():  # earlier versions made a link
        folder = Path(os.path.normpath(directory / other.read_text()))
    records = Records.open(folder)
    rows = directory / f"{name}.rows.npy"
    return records.take(np.load(rows)) if rows.exists() else records
