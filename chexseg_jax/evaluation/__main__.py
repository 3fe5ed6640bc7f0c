"""Score a prediction against radiologists' masks, both in CheXlocalize's JSON.

files in --out:
  pooled_iou.csv               per task and their mean: IoU pooled over the test set (sum of
                               intersections / sum of unions), with 95 % bootstrap intervals
  iou_results_per_cxr.csv, iou_bootstrap_results_per_cxr.csv, iou_summary_results.csv
                               CheXlocalize's evaluation: images where both masks have a pixel
                               (its `mean` is the mean of the bootstrap, and is printed here too)
  iou_truepos_False/           the same three, for images where either mask has a pixel
  hitmiss_*.csv                with --maps: CheXlocalize's hit rate

Images that --pred lacks count as empty predictions; images that --gt lacks count only in
iou_truepos_False. A task without a positive pixel in --gt is absent: it has no IoU and is left
out of the mean. A tasks.toml beside --gt gives a task set other than CheXpert's; if it says
missing = "unknown", the tasks that an image of --gt does not list are left out of all scores.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from chexseg_jax.data import taxonomy
from chexseg_jax.data.chexlocalize import Segmentations, read_segmentations
from chexseg_jax.errors import InputError, Parser, run_command
from chexseg_jax.evaluation import published
from chexseg_jax.evaluation.bootstrap import Interval, pooled_interval
from chexseg_jax.evaluation.iou import per_image


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, evaluate, and print a table."""
    parser = Parser(
        prog="chexseg evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--gt", required=True, metavar="FILE", help="ground truth: gt_segmentations_test.json"
    )
    parser.add_argument("--pred", required=True, metavar="FILE", help="prediction, in the same format")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the CSV files")
    parser.add_argument(
        "--maps", metavar="FILE", help="npz of maps (ID_Task|map), or a folder of them, for the hit rate"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (0, as published)")
    flags = parser.parse_args(arguments)
    if not 0 <= flags.seed < 2**32:
        parser.error(f"--seed {flags.seed} must be in [0, 2^32)")
    folder = Path(flags.gt).parent
    tasks = taxonomy.read_taxonomy(folder)
    if (folder / taxonomy.FILE).exists():
        print(f"tasks of {folder / taxonomy.FILE}: {', '.join(tasks.tasks)}")
    truth, prediction = (read_segmentations(path, tasks) for path in (flags.gt, flags.pred))
    try:
        print(evaluate(truth, prediction, flags.out, maps=flags.maps, seed=flags.seed))
    except OSError as error:
        raise InputError(f"--out {flags.out}: cannot be written ({error.strerror}); give a folder") from None


def evaluate(
    truth: Segmentations,
    prediction: Segmentations,
    out: str | Path,
    *,
    maps: str | Path | None = None,
    seed: int = 0,
) -> str:
    """Write the CSV files that the command's help lists, and return the table that it prints.

    Raises:
      InputError: if the files do not belong together, or `maps` is unusable.
    """
    out, tasks = Path(out), truth.taxonomy.tasks
    compared = published.compare(truth, prediction)
    hits = None if maps is None else published.hits(truth, maps)
    ids, counts = compared.test_set
    notes = _notes(truth, prediction)
    pooled = pooled_interval(counts, seed=seed)
    positive_images = (np.asarray(counts.positives) > 0).sum(axis=0).tolist()

    write = partial(published.write_results, tasks=tasks, seed=seed)
    either = per_image(compared.counts, true_positives_only=False)
    summaries = {
        "per image, both": write(out, "iou", ids, per_image(counts)),
        "per image, either": write(out / "iou_truepos_False", "iou", compared.ids, either),
    }
    if hits:
        scores, unmapped = hits
        summaries["hit rate"] = write(out, "hitmiss", ids, scores)
        if unmapped:
            notes.append(f"{_some(unmapped)} without a saliency map: neither hit nor miss")
    header = ["name", "iou", "lower", "upper", "positive_images"]
    rows = (
        [name, *map(published.number, ends), images]
        for name, *ends, images in zip([*tasks, "mIoU"], *pooled, [*positive_images, ""], strict=True)
    )
    published.write_csv(out / "pooled_iou.csv", header, rows)
    mean_of = f"mean of the {np.count_nonzero(positive_images)} present"
    table = _table([*tasks, mean_of], [*positive_images, len(ids)], pooled, summaries)
    return "\n".join([*table, *notes, f"written to {out}"])


def _table(
    names: Sequence[str],
    images: Sequence[int],
    pooled: Interval,
    summaries: dict[str, Float64[np.ndarray, "K 3"]],
) -> list[str]:
    width = max(map(len, names))
    header = f"{'':{width}} {'positive':>8}  {'pooled IoU [95 %]':20}"
    lines = [header + "".join(f"{summary:>19}" for summary in summaries)]
    for k, name in enumerate(names):
        estimate, lower, upper = (ends[k] for ends in pooled)
        interval = "absent" if np.isnan(estimate) else f"{estimate:.3f} [{lower:.3f}, {upper:.3f}]"
        means = [summary[k, 1] for summary in summaries.values() if k < len(summary)]
        cells = ("-" if np.isnan(mean) else f"{mean:.3f}" for mean in means)
        lines.append(
            f"{name:{width}} {images[k]:8}  {interval:20}" + "".join(f"{cell:>19}" for cell in cells)
        )
    return lines


def _notes(truth: Segmentations, prediction: Segmentations) -> list[str]:
    tasks = len(truth.taxonomy.tasks)
    known = np.stack([truth.known(image_id) for image_id in truth.ids])
    unlisted_is_empty = truth.taxonomy.missing == "empty"
    notes = []
    if unpredicted := sorted({*truth.ids} - {*prediction.ids}):
        notes.append(f"{_some(unpredicted)} not in {prediction.path}: counted as empty predictions")
    if unannotated := sorted({*prediction.ids} - {*truth.ids}):
        effect = "counted in iou_truepos_False only" if unlisted_is_empty else "left out"
        notes.append(f"{_some(unannotated)} not in {truth.path}: {effect}")
    for side in (truth, prediction) if unlisted_is_empty else (prediction,):
        if partly := [image_id for image_id in side.ids if len(side.entries[image_id]) < tasks]:
            notes.append(
                f"{_some(partly)} in {side.path} without masks of all {tasks} tasks: the rest is empty"
            )
    if unknown := np.count_nonzero(~known):
        notes.append(f"{unknown} of {known.size} image-task pairs not in {truth.path}: unknown, left out")
    return notes


def _some(ids: Sequence[str]) -> str:
    named = ", ".join(ids[:3])
    return f"{len(ids)} image{'s' * (len(ids) > 1)} ({named}{', ...' * (len(ids) > 3)})"


if __name__ == "__main__":
    run_command(main)
