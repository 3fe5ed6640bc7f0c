"""Stage: a segmentation's predictions for the test images, at full size, and what they score."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from chexseg_jax.data.chexlocalize import Segmentations, write_segmentations
from chexseg_jax.data.images import Frame, pack_masks, unfit_map, unpack_masks
from chexseg_jax.data.prepared import ImageSource, Prepared
from chexseg_jax.evaluation.iou import Counts, counts
from chexseg_jax.pathologies import TASKS
from chexseg_jax.stages.artifact import artifact
from chexseg_jax.stages.cams import digest
from chexseg_jax.training.checkpoint import restore
from chexseg_jax.training.inference import map_batches, probabilities_of

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
        tables: dict[str, list[Counts]] = {"model": [], "box": [], "reader": []}

        def predicted() -> Iterator[tuple[str, Bool[np.ndarray, "H W 10"]]]:
            row = 0
            source = ImageSource(images.images)
            for batch in map_batches(
                infer,
                restored.variables,
                source,
                batch_size=config.batch_size,
                what="scoring test images",
            ):
                for maps in batch:
                    image_id, size = images.ids[row], tuple(map(int, images.sizes[row]))
                    masks = unfit_map(maps, size) > limits
                    reference = truth.masks(image_id)
                    tables["model"].append(counts(masks, reference))
                    tables["box"].append(counts(centred_boxes(size, shares), reference))
                    if second_reader is not None:
                        other = (
                            second_reader.masks(image_id) if image_id in second_reader else reference & False
                        )
                        tables["reader"].append(counts(other, reference))
                    yield image_id, masks
                    row += 1

        write_segmentations(part / "predictions.json", predicted())
        arrays = {
            f"{name}_{field}": np.stack([getattr(row, field) for row in rows])
            for name, rows in tables.items()
            for field in Counts._fields
            if rows
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
