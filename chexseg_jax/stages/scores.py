"""Stage: a segmentation's predictions for the test images at full size, and their pixel counts."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from chexseg_jax.data.ahead import map_ahead
from chexseg_jax.data.chexlocalize import Rle, Segmentations, empty, encode, write_segmentations
from chexseg_jax.data.images import pack_masks, unfit_map
from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.split import Split
from chexseg_jax.evaluation.boxes import centred_boxes, mask_shares
from chexseg_jax.evaluation.iou import Counts, code_counts, save_counts
from chexseg_jax.saved_model import restore
from chexseg_jax.training.inference import map_batches, probabilities_of

#: The run-length coded masks of an image, by task.
Codes = Mapping[str, Rle]
#: Pseudo-masked images to predict for the overlays.
_WEAK_SHOWN = 3


def score_segmentation(
    part: Path,
    *,
    batch_size: int,
    model: Path,
    test: Path,
    split: Split,
    expert: Path,
    train_rows: Int[np.ndarray, " T"],
    pseudo: Path | None,
) -> None:
    """Predict the test images, undo the letterbox, and count pixels against the radiologists' masks.

    All test images are predicted; pixels are counted on those that the segmentations file lists. Two yardsticks are
    counted alike: the second reader, and a centred box as large as a task's mean mask on the expert training images.
    A mask that is unknown in the ground truth counts for none of them; one that is unknown for the second reader does
    not count for that reader.

    Args:
      part: receives `predictions.json` (CheXlocalize's format, all test images), `counts.npz` for
        `evaluation.iou.load_counts` (the listed images, in the order of `test`), and with `pseudo` the predictions
        `weak_masks.npy` [M,S,S,P] (bit-planes) of its first images.
      batch_size: images at a time.
      model: a saved segmentation.
      test: prepared test set.
      split: the test set's masks at full size.
      expert, train_rows: the images that give the box its size.
      pseudo: pseudo-masked set; a few of its images are predicted for the overlays.
    """
    restored, images = restore(model), Prepared.load(test)
    tasks, truth, reader = images.taxonomy.tasks, split.segmentations, split.second_reader
    limits = np.array([restored.thresholds[task] for task in tasks])
    shares = mask_shares(Prepared.load(expert).take(train_rows))
    infer = probabilities_of(restored.module, restored.normalisation)
    counted: list[dict[str, Counts]] = []

    def probabilities() -> Iterator[tuple[str, tuple[int, int], Float32[np.ndarray, "S S K"]]]:
        batches = map_batches(
            infer,
            restored.variables,
            Examples(image=images.images),
            batch_size=batch_size,
            what="scoring test images",
        )
        maps = itertools.chain.from_iterable(batches)
        for image_id, (height, width), one in zip(images.ids, images.sizes, maps, strict=True):
            yield image_id, (int(height), int(width)), one

    def judge(one: tuple) -> tuple[str, Codes, dict[str, Counts] | None]:
        image_id, size, maps = one
        # A task at a time: ten maps of a radiograph at full size take 260 MB, and several images are in work at once.
        model = {t: encode(unfit_map(maps[..., k], size) > limits[k]) for k, t in enumerate(tasks)}
        if image_id not in truth:
            return image_id, model, None
        box = {t: encode(centred_boxes(size, shares[[k]])[..., 0]) for k, t in enumerate(tasks)}
        codes: dict[str, Codes] = {"model": model, "box": box}
        if reader is not None:
            codes["reader"] = _listed(reader, image_id, size)
        reference, known = _listed(truth, image_id, size), truth.known(image_id)
        tables = {name: [code_counts(masks[t], reference[t]) for t in tasks] for name, masks in codes.items()}
        counts = {name: Counts(*np.transpose(rows)).where(known) for name, rows in tables.items()}
        if reader is not None:
            counts["reader"] = counts["reader"].where(reader.known(image_id))
        return image_id, model, counts

    def predictions() -> Iterator[tuple[str, Codes]]:
        for image_id, masks, tables in map_ahead(judge, probabilities(), distance=16):
            if tables is not None:
                counted.append(tables)
            yield image_id, masks

    write_segmentations(part / "predictions.json", predictions(), images.taxonomy)
    save_counts(part, {name: [tables[name] for tables in counted] for name in counted[0]})
    if pseudo:
        few = Examples(image=Prepared.load(pseudo).images[:_WEAK_SHOWN])
        (maps,) = map_batches(infer, restored.variables, few, batch_size=_WEAK_SHOWN)
        np.save(part / "weak_masks.npy", pack_masks(maps > limits))


def _listed(masks: Segmentations, image_id: str, size: tuple[int, int]) -> Codes:
    listed = image_id in masks
    return {task: masks.rle(image_id, task) if listed else empty(*size) for task in masks.taxonomy.tasks}
