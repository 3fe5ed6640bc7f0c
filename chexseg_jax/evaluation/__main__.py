"""The command `python -m chexseg_jax.evaluation`: CheXlocalize's CSV files and the pooled IoU."""

import argparse
from pathlib import Path

import numpy as np

from chexseg_jax.data.chexlocalize import Segmentations, read_segmentations
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.errors import InputError, refuse, run_command
from chexseg_jax.evaluation import published
from chexseg_jax.evaluation.bootstrap import Interval, pooled_interval
from chexseg_jax.evaluation.iou import Counts, per_image

EPILOG = """\
files in --out:
  pooled_iou.csv               per pathology and their mean: IoU pooled over the test set (sum of
                               intersections / sum of unions), with 95 % bootstrap intervals
  iou_results_per_cxr.csv, iou_bootstrap_results_per_cxr.csv, iou_summary_results.csv
                               CheXlocalize's evaluation: images where both masks have a pixel
                               (its `mean` is the mean of the bootstrap, and printed here too)
  iou_truepos_False/           the same three, for images where either mask has a pixel
  hitmiss_*.csv                with --maps: CheXlocalize's hit rate

Images that --pred lacks count as empty predictions; those that --gt lacks count only in
iou_truepos_False. A pathology without a positive pixel in --gt is absent: it has no IoU and is
left out of the mean.
"""


def main() -> None:
    """Parses the command line, evaluates, prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m chexseg_jax.evaluation",
        description="Scores a prediction against radiologists' masks, both in CheXlocalize's JSON.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--gt", required=True, metavar="FILE", help="ground truth: gt_segmentations_test.json"
    )
    parser.add_argument("--pred", required=True, metavar="FILE", help="prediction, in the same form")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the CSV files")
    parser.add_argument("--maps", metavar="FILE", help="npz of maps (ID_Pathology|map), for the hit rate")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0, as published)")
    parser.error = refuse
    flags = parser.parse_args()
    if not 0 <= flags.seed < 2**32:
        parser.error(f"--seed {flags.seed} is not in [0, 2^32)")
    truth, prediction = read_segmentations(flags.gt), read_segmentations(flags.pred)
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
    """Writes the CSV files that the command's help lists and returns the table that it prints.

    Raises:
      InputError: where the files do not belong together, or `maps` is not usable.
    """
    out = Path(out)
    compared = published.compare(truth, prediction)
    ids, counts = compared.test_set
    pooled = pooled_interval(counts, seed=seed)
    notes = _notes(truth, prediction, compared)
    both = published.write_results(out, "iou", ids, per_image(counts), seed=seed)
    either = published.write_results(
        out / "iou_truepos_False",
        "iou",
        compared.ids,
        per_image(compared.counts, true_positives_only=False),
        seed=seed,
    )
    summaries = {"per image, both": both, "per image, either": either}
    if maps is not None:
        scores, without = published.hits(truth, maps)
        summaries["hit rate"] = published.write_results(out, "hitmiss", ids, scores, seed=seed)
        if without:
            notes.append(f"{_some(without)} without a saliency map: no hit or miss")
    _write_pooled(out / "pooled_iou.csv", pooled, counts)
    return "\n".join([*_table(pooled, counts, summaries), *notes, f"written to {out}"])


def _write_pooled(path: Path, pooled: Interval, counts: Counts) -> None:
    positive = [*(np.asarray(counts.positives) > 0).sum(axis=0), ""]
    rows = (
        [name, *map(published.number, ends), images]
        for name, *ends, images in zip([*TASKS, "mIoU"], *pooled, positive, strict=True)
    )
    published.write_csv(path, ["name", "iou", "lower", "upper", "positive_images"], rows)


def _table(pooled: Interval, counts: Counts, summaries: dict[str, np.ndarray]) -> list[str]:
    positive = (np.asarray(counts.positives) > 0).sum(axis=0)
    lines = [f"{'':26} {'positive':>8}  {'pooled IoU [95 %]':20}" + "".join(f"{n:>19}" for n in summaries)]
    for k, task in enumerate(TASKS):
        scores = "".join(f"{_short(summary[k, 1]):>19}" for summary in summaries.values())
        lines.append(f"{task:26} {positive[k]:8}  {_interval(pooled, k):20}{scores}")
    present = int((positive > 0).sum())
    lines.append(
        f"{f'mean of the {present} present':26} {len(counts.positives):8}  {_interval(pooled, -1):20}"
    )
    return lines


def _notes(truth: Segmentations, prediction: Segmentations, compared: published.Comparison) -> list[str]:
    ids = np.array(compared.ids)
    unpredicted, unannotated = ids[~compared.in_prediction], ids[~compared.in_truth]
    notes = []
    if len(unpredicted):
        notes.append(f"{_some(unpredicted)} not in {prediction.path}: counted as empty predictions")
    if len(unannotated):
        notes.append(f"{_some(unannotated)} not in {truth.path}: counted in iou_truepos_False only")
    for side in (truth, prediction):
        partly = [image_id for image_id in side.ids if len(side.entries[image_id]) < len(TASKS)]
        if partly:
            notes.append(f"{_some(partly)} in {side.path} do not list all ten pathologies: the rest is empty")
    return notes


def _some(ids) -> str:
    named = ", ".join(map(str, ids[:3]))
    return f"{len(ids)} image{'s' * (len(ids) > 1)} ({named}{', ...' * (len(ids) > 3)})"


def _interval(interval: Interval, k: int) -> str:
    estimate, lower, upper = (ends[k] for ends in interval)
    return "absent" if np.isnan(estimate) else f"{estimate:.3f} [{lower:.3f}, {upper:.3f}]"


def _short(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    run_command(main)
