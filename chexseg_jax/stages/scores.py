"""Stage: a segmentation's predictions for the test images, at full size, and what they score."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32
from ml_collections import ConfigDict

from chexseg_jax.artifact import artifact
from chexseg_jax.data.ahead import map_ahead
from chexseg_jax.data.chexlocalize import Rle, Segmentations, empty, encode, write_segmentations
from chexseg_jax.data.images import Frame, pack_masks, unfit_map, unpack_masks
from chexseg_jax.data.prepared import ImageSource, Prepared
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.evaluation.iou import Counts, code_counts
from chexseg_jax.saved_model import restore
from chexseg_jax.stages.cams import digest
from chexseg_jax.training.inference import map_batches, probabilities_of

#: The masks of an image, by task.
Codes = Mapping[str, Rle]
#: Pseudo-masked images to predict, for the overlays.
_WEAK_SHOWN = 3


def score_segmentation(
    store: Path,
    config: ConfigDict,
    *,
    model: Path,
    test: Path,
    truth: Segmentations,
    second_reader: Segmentations | None,
    expert: Path,
    train_rows: Sequence[int],
    pseudo: Path | None,
) -> Path:
    """Predicts the test images, undoes the letterbox, and counts against the radiologists' masks.

    Two yardsticks are counted alike: the second reader, and a centred box as large as a task's mean mask on the
    expert training images.

    Args:
      store: the folder of artifacts.
      config: `batch_size`.
      model: artifact of `train_segmentation`.
      test: artifact of `prepare`.
      truth, second_reader: masks of the test images at full size.
      expert, train_rows: the images that the box takes its size from.
      pseudo: artifact of `make_pseudo_masks`; a few of its images are predicted too, to be looked at.

    Returns:
      The artifact: `predictions.json` (CheXlocalize's format), `counts.npz` for `load_counts`, and with
      `pseudo` the predictions `weak_masks.npy` [M,S,S] uint16 of its first images.
    """
    key = {
        "config": {"batch_size": config.batch_size},
        "model": model.name,
        "test": test.name,
        "second_reader": second_reader is not None,
        "box": [expert.name, digest(train_rows)],
        "pseudo": pseudo and pseudo.name,
    }

    def make(part: Path) -> None:
        restored, images = restore(model), Prepared.load(test)
        limits = np.array([restored.thresholds[task] for task in TASKS])
        shares = mask_shares(Prepared.load(expert).take(train_rows))

        infer = probabilities_of(restored.module, restored.normalisation)
        found: list[dict[str, Counts]] = []

        def seen() -> Iterator[tuple[str, tuple[int, int], Float32[np.ndarray, "S S 10"]]]:
            batches = map_batches(
                infer,
                restored.variables,
                ImageSource(images.images),
                batch_size=config.batch_size,
                what="scoring test images",
            )
            maps = itertools.chain.from_iterable(batches)
            for image_id, size, probabilities in zip(images.ids, images.sizes, maps, strict=True):
                yield image_id, tuple(map(int, size)), probabilities

        def judged(one: tuple) -> tuple[str, Codes, dict[str, Counts]]:
            image_id, size, probabilities = one
            codes = {"model": _marked(probabilities, limits, size), "box": _boxes(size, shares)}
            if second_reader is not None:
                codes["reader"] = _listed(second_reader, image_id, size)
            reference = _listed(truth, image_id, size)
            tables = {
                name: [code_counts(masks[t], reference[t]) for t in TASKS] for name, masks in codes.items()
            }
            return image_id, codes["model"], {n: Counts(*np.transpose(rows)) for n, rows in tables.items()}

        def predicted() -> Iterator[tuple[str, Codes]]:
            for image_id, masks, tables in map_ahead(judged, seen(), distance=16):
                found.append(tables)
                yield image_id, masks

        write_segmentations(part / "predictions.json", predicted())
        arrays = {
            f"{name}_{field}": np.stack([getattr(tables[name], field) for tables in found])
            for name in found[0]
            for field in Counts._fields
        }
        np.savez(part / "counts.npz", **arrays)
        if pseudo:
            few = ImageSource(Prepared.load(pseudo).images[:_WEAK_SHOWN])
            (maps,) = map_batches(infer, restored.variables, few, batch_size=_WEAK_SHOWN)
            np.save(part / "weak_masks.npy", pack_masks(maps > limits))

    return artifact(store, "scores", key, make)


def load_counts(scores: Path) -> dict[str, Counts]:
    """The pixel counts [N,10] at full size of `model`, `box` and, where there is one, `reader`."""
    with np.load(scores / "counts.npz") as arrays:
        names = {name.partition("_")[0] for name in arrays.files}
        return {
            name: Counts(*(arrays[f"{name}_{field}"] for field in Counts._fields)) for name in sorted(names)
        }


# A task at a time: ten maps of a radiograph at full size are 260 MB, and several radiographs are at work at once.


def _marked(probabilities: Float32[np.ndarray, "S S 10"], limits: np.ndarray, size: tuple[int, int]) -> Codes:
    return {task: encode(unfit_map(probabilities[..., k], size) > limits[k]) for k, task in enumerate(TASKS)}


def _boxes(size: tuple[int, int], shares: Float[np.ndarray, " 10"]) -> Codes:
    return {task: encode(centred_boxes(size, shares[[k]])[..., 0]) for k, task in enumerate(TASKS)}


def _listed(masks: Segmentations, image_id: str, size: tuple[int, int]) -> Codes:
    there = image_id in masks
    return {task: masks.rle(image_id, task) if there else empty(*size) for task in TASKS}


def mask_shares(annotated: Prepared) -> Float[np.ndarray, " 10"]:
    """Mean area of a task's masks, where it has one, as a share of the image without its padding; 0 where none has."""
    shares = np.zeros((len(annotated), len(TASKS)))
    for i in range(len(annotated)):
        rows, columns = Frame(*map(int, annotated.sizes[i]), annotated.size).content
        shares[i] = unpack_masks(annotated.masks[i]).sum((0, 1)) / (rows * columns)
    shown = shares > 0
    return shares.sum(0) / np.maximum(shown.sum(0), 1)


def centred_boxes(size: tuple[int, int], shares: Float[np.ndarray, " 10"]) -> Bool[np.ndarray, "H W 10"]:
    """One centred box a task, of the image's aspect and of the given shares of its area."""
    height, width = size
    boxes = np.zeros((height, width, len(shares)), bool)
    for k, share in enumerate(shares):
        h, w = round(height * math.sqrt(share)), round(width * math.sqrt(share))
        top, left = (height - h) // 2, (width - w) // 2
        boxes[top : top + h, left : left + w, k] = True
    return boxes
