"""Test images with everybody's masks of them, as Figure 4 and the page show them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from chexseg_jax.data.chexlocalize import Segmentations, read_segmentations
from chexseg_jax.data.images import fit_mask, unpack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.evaluation import iou
from chexseg_jax.evaluation.bootstrap import with_mean
from chexseg_jax.paper.results import Results

TRUTH, READER = "ground truth", "second reader"


@dataclass(frozen=True)
class Gallery:
    """The test set at the training size.

    Attributes:
      prepared: its images and true masks.
      predictions: title -> masks of the test images at full size: models, and the second reader.
      words: title -> which model that is.
      scores: title -> per-image IoU of each pathology that an image has (nan of others), and as entry 10 their mean.
    """

    prepared: Prepared
    predictions: Mapping[str, Segmentations]
    words: Mapping[str, str]
    scores: Mapping[str, Float[np.ndarray, "N 11"]]

    @classmethod
    def open(cls, test: Path, results: Results, second_reader: Segmentations | None) -> "Gallery":
        """The first trial of the best semi-, weakly and fully supervised models, and the second reader."""
        titles = {
            "semi-supervised": results.semi,
            "weakly supervised": results.weak,
            "fully supervised": results.full,
        }
        runs = {title: results[setting][0] for title, setting in titles.items() if setting}
        predictions = {
            title: read_segmentations(run.scores / "predictions.json") for title, run in runs.items()
        }
        counts = {title: run.counts["model"] for title, run in runs.items()}
        if second_reader is not None:
            predictions[READER] = second_reader
            counts[READER] = results.yardsticks["reader"]
        scores = {}
        for title, of in counts.items():
            each = iou.per_image(of, true_positives_only=False)
            scores[title] = with_mean(np.where(of.positives > 0, each, np.nan))
        words = {
            title: f"{setting.words}, trial {results[setting][0].number}"
            for title, setting in titles.items()
            if setting
        }
        return cls(Prepared.load(test), predictions, words, scores)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the images, such as `patient64741_study1_view1_frontal`."""
        return self.prepared.ids

    @property
    def sources(self) -> tuple[str, ...]:
        """The ground truth, then who else has masks."""
        return TRUTH, *self.predictions

    def told(self, source: str) -> str:
        """A sentence that names `source`: of a model, which one it is."""
        words = self.words.get(source, source)
        return f"{words[0].upper()}{words[1:]}."

    @cached_property
    def shown(self) -> Bool[np.ndarray, "N 10"]:
        """Which images have a true mask of which task."""
        return self.prepared.shown()

    def image(self, row: int) -> UInt8[np.ndarray, "S S"]:
        """A radiograph, letterboxed."""
        return self.prepared.images[row]

    def masks(self, source: str, row: int) -> Bool[np.ndarray, "S S 10"]:
        """What `source` marked; nothing where it does not list the image."""
        if source == TRUTH:
            return unpack_masks(self.prepared.masks[row])
        listed, name = self.predictions[source], self.ids[row]
        if name not in listed:
            return np.zeros((self.prepared.size,) * 2 + (len(TASKS),), bool)
        # One by one: ten masks at full size, side by side, are slow to fill and not needed.
        return np.stack([fit_mask(listed.mask(name, task), self.prepared.size) for task in TASKS], -1)

    def fullest(self, count: int) -> list[int]:
        """Images with many pathologies, not all of one kind: every third, from the fullest down."""
        order = np.argsort(-self.shown.sum(1), kind="stable")
        return [int(row) for row in order[: 3 * count : 3]]
