"""CheXlocalize's published evaluation, digit for digit: IoU and hit rate, as CSV files.

These functions follow its `eval.py`:

- An image that the prediction does not list counts as an empty prediction. An image that only the prediction lists
  counts (as a false positive) when all images are scored, not among the true positives.
- The `mean` of the tables is the mean of 1000 bootstrap means, not the mean of the scores: it depends on the seed,
  and leaves out replicates without a scored image.
- `lower` and `upper` are the 25th and 975th of the sorted replicates, with those without a scored image sorted last: a
  task with few positive images has a blank `upper`.
- A hit is an image whose most salient pixel, in the map resized to the image, lies in the mask. Images without the task
  are neither hits nor misses.

One rule is ours: where the task set says that an unlisted task is unknown, the image has no weight in that task.

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
from chexseg_jax.data.taxonomy import CHEXSEG_TASKS, Taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.bootstrap import draws, mean_replicates
from chexseg_jax.evaluation.iou import Counts, code_counts
from chexseg_jax.files import written_aside

#: Exceptions of NumPy and zipfile for a damaged file or one of another format.
_UNREADABLE = (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


@dataclass(frozen=True)
class Comparison:
    """Pixel counts of a prediction and the truth, on every image that either lists.

    Attributes:
      ids: images, sorted.
      counts: pixels per image and task; zero where the truth is unknown.
      in_truth: whether the truth lists the image. These images are the test set.
    """

    ids: tuple[str, ...]
    counts: Counts
    in_truth: Bool[np.ndarray, " N"]

    @property
    def test_set(self) -> tuple[tuple[str, ...], Counts]:
        """Ids and counts of the images that the truth lists."""
        ids = tuple(image_id for image_id, listed in zip(self.ids, self.in_truth, strict=True) if listed)
        return ids, Counts(*(n[self.in_truth] for n in self.counts))


def compare(truth: Segmentations, prediction: Segmentations) -> Comparison:
    """Count a prediction against the truth on run lengths: seconds for 668 full-size radiographs.

    Raises:
      InputError: if the files share no image, or masks of an image differ in size.
    """
    if not set(truth.ids) & set(prediction.ids):
        raise InputError(
            f"{prediction.path} and {truth.path} have no image in common (ids such as {prediction.ids[0]!r} "
            f"and {truth.ids[0]!r}); give the prediction for this ground truth"
        )
    ids = tuple(sorted({*truth.ids, *prediction.ids}))
    tasks = truth.taxonomy.tasks
    counts = np.zeros((3, len(ids), len(tasks)), np.int64)
    known = np.stack([truth.known(image_id) for image_id in ids])
    for i, image_id in enumerate(ids):
        if image_id in truth and image_id in prediction:
            prediction.check_size(image_id, truth.size(image_id), str(truth.path))
        nothing = empty(*(truth if image_id in truth else prediction).size(image_id))
        for k, task in enumerate(tasks):
            codes = (
                side.rle(image_id, task) if image_id in side else nothing for side in (prediction, truth)
            )
            counts[:, i, k] = code_counts(*codes)
    return Comparison(ids, Counts(*counts).where(known), np.array([i in truth for i in ids]))


def hits(truth: Segmentations, maps: str | Path) -> tuple[Float64[np.ndarray, "N K"], tuple[str, ...]]:
    """The pointing game: 1 if the most salient pixel lies in the mask, 0 if not.

    Args:
      truth: N images, in the order of its `ids`.
      maps: an npz of saliency maps [h, w] of any size under `ID_Task|map` (or without `|map`), or a folder of such
        files. They cover the whole image and are resized to it bilinearly; the first of equal pixels counts.

    Returns:
      (hits, nan if the image is without the task or has no map of it; ids without any map).

    Raises:
      InputError: for a file of another format, naming an unusable map.
    """
    taxonomy = truth.taxonomy
    rows = {image_id: np.full(len(taxonomy.tasks), np.nan) for image_id in truth.ids}
    mapped = set()
    path = Path(maps)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    for image_id, task, values in (item for file in files for item in _read_maps(file, taxonomy)):
        if image_id not in truth:
            continue
        mapped.add(image_id)
        mask = truth.mask(image_id, task)
        if mask.any():
            peak = np.unravel_index(np.argmax(resize_map(values, mask.shape)), mask.shape)
            rows[image_id][taxonomy.tasks.index(task)] = mask[peak]
    if not mapped:
        example = f"{truth.ids[0]}_{taxonomy.tasks[0]}|map"
        raise InputError(f"{maps}: no map of an image in {truth.path}; name the maps like {example!r}")
    return np.stack(list(rows.values())), tuple(image_id for image_id in rows if image_id not in mapped)


def write_results(
    directory: str | Path,
    metric: str,
    ids: Sequence[str],
    scores: Float[np.ndarray, "N K"],
    *,
    tasks: Sequence[str],
    seed: int = 0,
) -> Float64[np.ndarray, "K 3"]:
    """Write the three files of one metric, digit for digit as published, and return the summary.

    The files are `{metric}_results_per_cxr.csv`, `{metric}_bootstrap_results_per_cxr.csv` (1000 replicates) and
    `{metric}_summary_results.csv`.

    Args:
      directory: created if missing.
      metric: `iou` or `hitmiss`.
      ids: images, sorted.
      scores: per image and task; nan for an unscored image.
      tasks: names of the columns.
      seed: seed of the bootstrap.

    Returns:
      (lower, mean, upper) per task, rounded to three decimals.
    """
    prefix = f"{directory}/{metric}"
    # pandas keeps a column of hits without a gap as integers; every other column is of floats.
    whole = (metric == "hitmiss") & ~np.isnan(scores).any(axis=0)
    per_image = (
        [*(int(x) if n else number(x) for x, n in zip(row, whole, strict=True)), image_id]
        for image_id, row in zip(ids, scores, strict=True)
    )
    write_csv(f"{prefix}_results_per_cxr.csv", [*tasks, "img_id"], per_image)
    replicates = mean_replicates(scores, draws(len(ids), seed=seed))
    # The published bootstrap file has its own order of columns; the other files are alphabetical, as CheXpert's tasks.
    order = CHEXSEG_TASKS if set(tasks) == set(CHEXSEG_TASKS) else tasks
    columns = replicates[:, [tasks.index(task) for task in order]]
    write_csv(f"{prefix}_bootstrap_results_per_cxr.csv", order, (map(number, row) for row in columns))
    summary = np.stack([_summary(column) for column in replicates.T])
    per_task = ([task, *map(number, row)] for task, row in zip(tasks, summary, strict=True))
    write_csv(f"{prefix}_summary_results.csv", ["name", "lower", "mean", "upper"], per_task)
    return summary


def number(value: float) -> str:
    """Format a float as pandas does in a CSV: the shortest digits that round-trip, blank for nan."""
    return "" if np.isnan(value) else repr(float(value))


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file with one header line; it appears only when complete."""
    with written_aside(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _summary(replicates: Float64[np.ndarray, " R"]) -> Float64[np.ndarray, "3"]:
    """(lower, mean, upper) as in `compute_cis`: order statistics with nan sorted last, one below NumPy's."""
    ordered = np.sort(replicates)  # nan last
    lower, upper = (ordered[int(share * len(ordered)) - 1] for share in (0.025, 0.975))
    scored = ordered[~np.isnan(ordered)]
    return np.round([lower, scored.mean() if len(scored) else np.nan, upper], 3)


def _read_maps(path: Path, taxonomy: Taxonomy) -> Iterator[tuple[str, str, Float[np.ndarray, "h w"]]]:
    """Yield (image id, task, map) from an npz, one map at a time; the longest known name at a key's end is its task."""
    known = sorted({*taxonomy.tasks, *taxonomy.labels, *taxonomy.aliases}, key=len, reverse=True)
    try:
        with path.open("rb") as file, np.load(file) as archive:
            for key in archive.files:
                name, _, kind = key.rpartition("|") if "|" in key else (key, "", "map")
                if kind != "map":
                    continue
                last = name.rpartition("_")[2]
                task = next((task for task in known if name.endswith(f"_{task}")), last)
                image_id = name.removesuffix(f"_{task}")
                values = np.asarray(archive[key], np.float64)
                if values.ndim > 2 and not any(n - 1 for n in values.shape[:-2]):
                    values = values.reshape(values.shape[-2:])  # published maps are [1, 1, h, w]
                if values.ndim != 2 or not values.size or not np.isfinite(values).all():
                    raise InputError(f"{key!r} is not a map of finite numbers, shape {values.shape}")
                yield image_id, taxonomy.task(task), values
    except _UNREADABLE as error:  # an InputError is a ValueError
        reason = str(error) if isinstance(error, InputError) else f"not an npz of saliency maps ({error})"
        raise InputError(f"{path}: {reason}") from None
