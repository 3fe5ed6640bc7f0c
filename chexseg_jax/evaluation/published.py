"""CheXlocalize's published evaluation to the last printed digit: IoU and hit rate, as CSV files.

What its `eval.py` does, and these functions with it:

- An image that the prediction does not list counts as an empty prediction. One that only the prediction lists
  counts (as a false positive) when all images are scored, not among the true positives.
- The tables' `mean` is the mean of 1000 bootstrap means, not the mean of the scores: it depends on the seed,
  and replicates without a scored image drop out of it.
- `lower` and `upper` are the 25th and 975th of the sorted replicates, those without a scored image sorted
  last: a pathology with few positive images has a blank `upper`.
- A hit is the pixel of greatest saliency, in the map resized to the image, lying in the mask. Images without
  the pathology have neither hit nor miss.

Source: `eval.py` of https://github.com/rajpurkarlab/cheXlocalize; Saporta et al., Nature Machine Intelligence
2022.
"""

import csv
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from chexseg_jax.data.chexlocalize import Segmentations, empty
from chexseg_jax.data.images import resize_map
from chexseg_jax.data.taxonomy import CHEXSEG_TASKS, TASKS, task_name
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.bootstrap import draws, mean_replicates
from chexseg_jax.evaluation.iou import Counts, code_counts
from chexseg_jax.files import written_aside

#: The column order of the published bootstrap files (the other files are alphabetical, as `TASKS`).
BOOTSTRAP_ORDER = CHEXSEG_TASKS


#: What NumPy and zipfile raise for a file that is damaged or something else.
_UNREADABLE = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


@dataclass(frozen=True)
class Comparison:
    """A prediction counted against the truth, on every image that either lists.

    Attributes:
      ids: images, sorted.
      counts: pixels per image and task.
      in_truth: whether the truth lists the image: those are the test set.
      in_prediction: whether the prediction does; where not, it counts as empty.
    """

    ids: tuple[str, ...]
    counts: Counts
    in_truth: Bool[np.ndarray, " N"]
    in_prediction: Bool[np.ndarray, " N"]

    @property
    def test_set(self) -> tuple[tuple[str, ...], Counts]:
        """Ids and counts of the images that the truth lists."""
        ids = tuple(image_id for image_id, there in zip(self.ids, self.in_truth, strict=True) if there)
        return ids, Counts(*(n[self.in_truth] for n in self.counts))


def compare(truth: Segmentations, prediction: Segmentations) -> Comparison:
    """Counts a prediction against the truth, on run lengths: seconds for 668 full-size radiographs.

    Raises:
      InputError: where no image is in both files, or masks of an image differ in size.
    """
    if not set(truth.ids) & set(prediction.ids):
        raise InputError(
            f"{prediction.path} and {truth.path} have no image in common (ids such as {prediction.ids[0]!r} "
            f"and {truth.ids[0]!r}); give the prediction for this ground truth"
        )
    ids = tuple(sorted({*truth.ids, *prediction.ids}))
    counts = np.zeros((3, len(ids), len(TASKS)), np.int64)
    for i, image_id in enumerate(ids):
        if image_id in truth and image_id in prediction:
            prediction.check_size(image_id, truth.size(image_id), str(truth.path))
        height, width = (truth if image_id in truth else prediction).size(image_id)
        nothing = empty(height, width)
        for k, task in enumerate(TASKS):
            codes = (
                side.rle(image_id, task) if image_id in side else nothing for side in (prediction, truth)
            )
            counts[:, i, k] = code_counts(*codes)
    in_truth, in_prediction = (np.array([i in side for i in ids]) for side in (truth, prediction))
    return Comparison(ids, Counts(*counts), in_truth, in_prediction)


def hits(truth: Segmentations, maps: str | Path) -> tuple[Float64[np.ndarray, "N 10"], tuple[str, ...]]:
    """The pointing game: 1 where the most salient pixel lies in the mask, 0 where it does not.

    Args:
      truth: N images, in the order of its `ids`.
      maps: an npz of saliency maps [h, w] of any size under `ID_Pathology|map` (or without `|map`). They
        cover the whole image and are resized to it bilinearly; the first of equal pixels counts.

    Returns:
      (hits, nan where the image is without the pathology or has no map; ids that have no map at all).

    Raises:
      InputError: for a file that is no such npz, naming the map that is unusable.
    """
    rows = {image_id: np.full(len(TASKS), np.nan) for image_id in truth.ids}
    seen = set()
    for image_id, task, values in _maps(Path(maps)):
        if image_id not in truth:
            continue
        seen.add(image_id)
        mask = truth.mask(image_id, task)
        if mask.any():
            peak = np.unravel_index(np.argmax(resize_map(values, mask.shape)), mask.shape)
            rows[image_id][TASKS.index(task)] = mask[peak]
    if not seen:
        raise InputError(f"{maps}: no map of an image in {truth.path}; keys are such as ID_Edema|map")
    return np.stack(list(rows.values())), tuple(image_id for image_id in rows if image_id not in seen)


def write_results(
    directory: str | Path,
    metric: str,
    ids: tuple[str, ...],
    scores: Float[np.ndarray, "N 10"],
    *,
    seed: int = 0,
) -> Float64[np.ndarray, "10 3"]:
    """Writes the three files of one metric, digit for digit as published, and returns the summary.

    The files are `{metric}_results_per_cxr.csv`, `{metric}_bootstrap_results_per_cxr.csv` (1000 replicates)
    and `{metric}_summary_results.csv`.

    Args:
      directory: made if need be.
      metric: `iou` or `hitmiss`.
      ids: of the images, sorted.
      scores: per image and task; nan where the image does not count.
      seed: of the bootstrap.

    Returns:
      (lower, mean, upper) per task, rounded to three decimals.
    """
    replicates = mean_replicates(scores, draws(len(ids), replicates=1000, seed=seed))
    summary = np.stack([_summary(column) for column in replicates.T])
    # pandas keeps a column of hits without a gap as whole numbers, and makes any other one floats.
    whole = (metric == "hitmiss") & ~np.isnan(scores).any(axis=0)
    rows = (
        [*(int(x) if n else number(x) for x, n in zip(line, whole, strict=True)), image_id]
        for image_id, line in zip(ids, scores, strict=True)
    )
    write_csv(Path(directory) / f"{metric}_results_per_cxr.csv", [*TASKS, "img_id"], rows)
    order = [TASKS.index(task) for task in BOOTSTRAP_ORDER]
    rows = (map(number, line[order]) for line in replicates)
    write_csv(Path(directory) / f"{metric}_bootstrap_results_per_cxr.csv", BOOTSTRAP_ORDER, rows)
    rows = ([task, *map(number, line)] for task, line in zip(TASKS, summary, strict=True))
    write_csv(Path(directory) / f"{metric}_summary_results.csv", ["name", "lower", "mean", "upper"], rows)
    return summary


def number(value: float) -> str:
    """A float as pandas prints it in a CSV: the shortest digits that give it back, blank for nan."""
    return "" if np.isnan(value) else repr(float(value))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """A CSV file with one header line, written aside and renamed."""
    with written_aside(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _summary(replicates: Float64[np.ndarray, " R"]) -> Float64[np.ndarray, "3"]:
    """(lower, mean, upper) of `compute_cis`: order statistics with nan sorted last, one below numpy's."""
    ordered = np.sort(replicates)  # nan last
    there = ordered[~np.isnan(ordered)]
    lower, upper = (ordered[int(share * len(ordered)) - 1] for share in (0.025, 0.975))
    return np.round([lower, there.mean() if len(there) else np.nan, upper], 3)


def _maps(path: Path) -> Iterator[tuple[str, str, Float[np.ndarray, "h w"]]]:
    """(image id, task, map) of an npz, one at a time."""
    try:
        with path.open("rb") as file, np.load(file) as archive:
            for key in archive.files:
                name, _, kind = key.partition("|")
                if kind not in ("", "map"):
                    continue
                image_id, _, task = name.rpartition("_")
                values = archive[key]
                if values.ndim > 2 and not any(n - 1 for n in values.shape[:-2]):
                    values = values.reshape(values.shape[-2:])  # published maps are [1, 1, h, w]
                if values.ndim != 2 or not values.size or not np.isfinite(values).all():
                    raise InputError(f"{path}: {key!r} is no map of finite numbers, shape {values.shape}")
                yield image_id, task_name(task), values
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except _UNREADABLE as error:
        raise InputError(f"{path}: no npz of saliency maps ({error})") from None
