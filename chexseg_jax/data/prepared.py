"""The prepared form of a set of radiographs: arrays at the training size, memory-mapped, read at random.

One folder holds `images.npy` [N,S,S] uint8, `labels.npy` [N,14], `sizes.npy` [N,2] (the full height and width),
`ids.json`, and where masks are known `masks.npy` [N,S,S] uint16 (bit k = TASKS[k]). Decoding and resizing are
paid once, a random read is one page fault, and nothing grows with the set in memory.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt16

from chexseg_jax.pathologies import label_indices


@dataclass(frozen=True)
class Prepared:
    """Radiographs at the training size, all arrays aligned on N.

    Attributes:
      ids: such as `patient64541_study1_view1_frontal`.
      images: grey, letterboxed.
      labels: CheXpert's fourteen: 1, 0, -1 uncertain, nan blank.
      sizes: full height and width of the files.
      masks: bit-planes, bit k = TASKS[k]; None where no mask is known.
    """

    ids: tuple[str, ...]
    images: UInt8[np.ndarray, "N S S"]
    labels: Float[np.ndarray, "N 14"]
    sizes: Int[np.ndarray, "N 2"]
    masks: UInt16[np.ndarray, "N S S"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """S, the side of the square images in pixels."""
        return self.images.shape[1]

    def take(self, rows: Sequence[int]) -> "Prepared":
        """The given rows, copied into memory."""
        rows = np.asarray(rows, int)
        return Prepared(
            tuple(self.ids[i] for i in rows),
            self.images[rows],
            self.labels[rows],
            self.sizes[rows],
            None if self.masks is None else self.masks[rows],
        )

    def with_masks(self, masks: UInt16[np.ndarray, "N S S"]) -> "Prepared":
        """The same radiographs with other masks (pseudo-masks, say)."""
        return replace(self, masks=masks)

    def save(self, directory: Path) -> None:
        """Writes the arrays into `directory`."""
        (directory / "ids.json").write_text(json.dumps(self.ids))
        for name in ("images", "labels", "sizes", "masks"):
            if (array := getattr(self, name)) is not None:
                np.save(directory / f"{name}.npy", array)

    @classmethod
    def load(cls, directory: Path) -> "Prepared":
        """Opens what `save` wrote; the large arrays stay on disk."""
        masks = directory / "masks.npy"
        return cls(
            tuple(json.loads((directory / "ids.json").read_text())),
            np.load(directory / "images.npy", mmap_mode="r"),
            np.load(directory / "labels.npy"),
            np.load(directory / "sizes.npy"),
            np.load(masks, mmap_mode="r") if masks.exists() else None,
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

    images: UInt8[np.ndarray, "N S S"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {"image": np.asarray(self.images[row])}


def task_labels(labels: Float[np.ndarray, "N 14"]) -> Float[np.ndarray, "N 10"]:
    """The ten tasks' columns of CheXpert's fourteen."""
    return labels[:, label_indices()]
