"""Test images with the masks of the ground truth, of models and of the second reader, to browse or to print."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from PIL import Image

from chexseg_jax.data.chexlocalize import Segmentations, encode, read_segmentations
from chexseg_jax.data.images import fit_mask
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.evaluation import iou
from chexseg_jax.evaluation.bootstrap import with_mean
from chexseg_jax.report.figures import Column
from chexseg_jax.sources import Sources

TRUTH, READER = "ground truth", "second reader"
#: Images of a page, 20 kB each: all of CheXpert's 668; of a larger test set, so many.
_MOST = 1000


@dataclass(frozen=True)
class Gallery:
    """The test set at the training size.

    Attributes:
      prepared: its images and true masks, also of images that the segmentations file does not list.
      predictions: title -> masks of the test images at full size, of models and of the second reader.
      words: title -> description of the model.
      scores: title -> IoU of each image, see `image_scores`; nan for an image that is not listed.
      picture: noun for one of the images; a phantom's are called synthetic.
    """

    prepared: Prepared
    predictions: Mapping[str, Segmentations]
    words: Mapping[str, str]
    scores: Mapping[str, Float64[np.ndarray, "N K_and_mean"]]
    picture: str = "Radiograph"

    @classmethod
    def open(
        cls, test: Path, sources: Sources, scores: Mapping[str, Path], words: Mapping[str, str]
    ) -> "Gallery":
        """Open the predictions of some models, and the second reader's masks where there are any.

        Args:
          test: the prepared test set.
          sources: the data.
          scores: title -> artifact with a model's `predictions.json` and `counts.npz`.
          words: title -> description of the model.
        """
        predictions = {
            title: read_segmentations(path / "predictions.json", sources.taxonomy)
            for title, path in scores.items()
        }
        counts = {title: iou.load_counts(path)["model"] for title, path in scores.items()}
        if sources.second_reader is not None:
            predictions[READER] = sources.second_reader
            counts[READER] = iou.load_counts(next(iter(scores.values())))["reader"]
        prepared = Prepared.load(test)
        each = {}
        for title, of in counts.items():
            each[title] = np.full((len(prepared), len(prepared.taxonomy.tasks) + 1), np.nan)
            each[title][prepared.listed] = image_scores(of)
        picture = "Synthetic image" if sources.is_phantom else "Radiograph"
        return cls(prepared, predictions, words, each, picture)

    @property
    def sources(self) -> tuple[str, ...]:
        """Titles of the mask sources, the ground truth first."""
        return TRUTH, *self.predictions

    @property
    def unknown(self) -> Bool[np.ndarray, "N K"]:
        """Which tasks of each image were not annotated."""
        return ~np.asarray(self.prepared.known)

    def describe(self, source: str) -> str:
        """A sentence that names a source: for a model, which one it is."""
        words = self.words.get(source, source)
        return f"{words[0].upper()}{words[1:]}."

    def masks(self, source: str, row: int) -> Bool[np.ndarray, "S S K"]:
        """The masks of an image by a source; empty if the source does not list the image."""
        if source == TRUTH:
            return self.prepared.read_masks(row)
        listed, name = self.predictions[source], self.prepared.ids[row]
        tasks, size = self.prepared.taxonomy.tasks, self.prepared.size
        if name not in listed:
            return np.zeros((size, size, len(tasks)), bool)
        # Task by task: all tasks at full size side by side are slow to fill and not needed.
        return np.stack([fit_mask(listed.mask(name, task), size) for task in tasks], -1)

    def columns(self, sources: Sequence[str], rows: Sequence[int]) -> list[Column]:
        """The masks of some images by some sources, for `figures.draw_overlays`."""
        return [(source, [self.masks(source, row) for row in rows]) for source in sources]

    def fullest(self, count: int) -> list[int]:
        """Images with many tasks, but not all of the same kind: every third, from the fullest down."""
        order = np.argsort(-self.prepared.has_mask().sum(1), kind="stable")
        return [int(row) for row in order[: 3 * count : 3]]

    @property
    def shown(self) -> list[int]:
        """The rows of the images in a page: all, or of many some, taken evenly."""
        count = len(self.prepared)
        return np.linspace(0, count - 1, min(count, _MOST)).astype(int).tolist()

    def data(self) -> dict[str, Any]:
        """The input of gallery.js: tasks with colours, sources, images with scores and run-length coded masks."""
        taxonomy = self.prepared.taxonomy
        return {
            "picture": self.picture,
            "size": self.prepared.size,
            "tasks": [
                {"name": task, "colour": colour}
                for task, colour in zip(taxonomy.tasks, taxonomy.colours, strict=True)
            ],
            "sources": list(self.sources),
            "truth": TRUTH,
            "images": [self._image_data(row) for row in self.shown],
        }

    def _image_data(self, row: int) -> dict[str, Any]:
        masks = {}
        for source in self.sources:
            planes = self.masks(source, row)
            masks[source] = {
                str(k): encode(planes[..., k])["counts"] for k in np.flatnonzero(planes.any((0, 1)))
            }
        scores = {
            source: [None if np.isnan(value) else round(float(value), 4) for value in values[row]]
            for source, values in self.scores.items()
        }
        return {
            "id": self.prepared.ids[row],
            "jpeg": _jpeg(self.prepared.images[row]),
            "masks": masks,
            "scores": scores,
            "unknown": np.flatnonzero(self.unknown[row]).tolist(),
        }


def image_scores(counts: iou.Counts) -> Float64[np.ndarray, "N K_and_mean"]:
    """IoU of each image and task that the ground truth marks there (nan otherwise) and, last, their mean."""
    each = iou.per_image(counts, true_positives_only=False)
    return with_mean(np.where(counts.positives > 0, each, np.nan))


def _jpeg(pixels: UInt8[np.ndarray, "S S"]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", quality=90)  # 15 kB at 320 px, as PNG 40 kB
    return base64.b64encode(stream.getvalue()).decode()
