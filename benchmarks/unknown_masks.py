"""Partly annotated expert masks: a missing task read as unknown, against a missing task read as empty.

    python -m benchmarks.unknown_masks work > benchmarks/results/phantom_unknown.md

Writes a phantom twice below the work directory. In both, `gt_segmentations_val.json` lists a random half of the ten
tasks of every expert image; they differ only in `missing` of their `tasks.toml`. On each, `configs/full.py` trains a
DeepLabv3+ from random weights on the expert masks, with three seeds. The test masks are complete. Rerun the command to
resume: finished stages are reused.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from ml_collections import ConfigDict

from chexseg_jax import experiment, phantom
from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT, FILE, Missing, Taxonomy
from chexseg_jax.errors import InputError, run_command
from chexseg_jax.evaluation.bootstrap import Interval, paired_difference, t_interval, trial_scores
from chexseg_jax.evaluation.iou import Counts
from chexseg_jax.evaluation.published import compare
from chexseg_jax.report.tables import interval, markdown, number
from configs import full

_SEEDS = 3
#: Fully supervised training ignores the training images; a few satisfy the readers.
_PHANTOM: dict[str, Any] = {
    "train": 16,
    "valid": 120,
    "test": 120,
    "size": 128,
    "seed": 0,
    "conspicuity": 1.5,
}


def main() -> None:
    """Print the report for the work directory named on the command line."""
    if len(sys.argv) != 2:
        raise InputError("give one work directory, as in: python -m benchmarks.unknown_masks work")
    workdir = Path(sys.argv[1]).absolute()
    counts: dict[str, list[Counts]] = {}
    for missing in get_args(Missing):
        root = workdir / f"phantom-{missing}"
        write_data(root, missing)
        runs = [experiment.run(configuration(root, seed), workdir) for seed in range(_SEEDS)]
        counts[missing] = [count_pixels(root, run) for run in runs]
    print("\n".join([*_heading(), *table(counts["unknown"], counts["empty"])]))


def write_data(root: Path, missing: Missing) -> None:
    """Write a phantom with half of the expert masks hidden, unless `root` holds it already."""
    if (root / FILE).exists():
        return
    phantom.make(root, **_PHANTOM)
    masks = root / "gt_segmentations_val.json"
    masks.write_text(json.dumps(hide_tasks(json.loads(masks.read_text()), seed=0)))
    (root / FILE).write_text(tasks_toml(replace(CHEXPERT, missing=missing)))


def hide_tasks(masks: Mapping[str, Mapping[str, Any]], *, seed: int) -> dict[str, dict[str, Any]]:
    """Remove a random half of the tasks of every image of a segmentations file."""
    rng = np.random.default_rng(seed)
    kept = {}
    for image_id in sorted(masks):
        entry = masks[image_id]
        names = rng.choice(sorted(entry), len(entry) // 2, replace=False)
        kept[image_id] = {task: entry[task] for task in entry if task in names}
    return kept


def tasks_toml(taxonomy: Taxonomy) -> str:
    """The text of the `tasks.toml` that `read_taxonomy` reads as `taxonomy`."""
    values = taxonomy.to_dict()
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if name not in tables]
    for name, entries in tables.items():
        lines += [
            f"[{name}]",
            *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in entries.items()),
        ]
    return "\n".join(lines) + "\n"


def configuration(root: Path, seed: int) -> ConfigDict:
    """`configs/full.py` on the data below `root`, small enough for two minutes on two CPU cores."""
    config = full.get_config(f"init=random,seed={seed},root={root},scale=laptop")
    config.data.size = 96
    config.segmentation.update(steps=150, checkpoint_every=50)
    config.scores.bootstrap = 100
    return config


def count_pixels(root: Path, run: Path) -> Counts:
    """Pixel counts [N, K] of a run's predictions on the predicted test images with masks."""
    predictions = read_segmentations(run / "predictions.json")
    compared = compare(read_segmentations(root / "gt_segmentations_test.json"), predictions)
    ids, counts = compared.test_set
    predicted = np.array([image_id in predictions for image_id in ids])
    return Counts(*(pixels[predicted] for pixels in counts))


def table(unknown: Sequence[Counts], empty: Sequence[Counts]) -> list[str]:
    """Lines of Markdown: both mIoU and their difference, for each seed and over all of them."""
    scores = trial_scores(unknown)[:, -1], trial_scores(empty)[:, -1]
    rows = [
        [str(seed), *(number(float(score[seed])) for score in scores), _mean_of(paired_difference([a], [b]))]
        for seed, (a, b) in enumerate(zip(unknown, empty, strict=True))
    ]
    means = [f"**{number(float(score.mean()))}**" for score in scores]
    rows.append(["**mean**", *means, f"**{_mean_of(paired_difference(unknown, empty))}**"])
    over_seeds = interval(*map(float, t_interval(scores[0] - scores[1])))
    header = ["seed", "missing is unknown", "missing is empty", "difference [over images]"]
    return [*markdown(header, rows), "", f"Difference with Student's interval over seeds: {over_seeds}."]


def _mean_of(difference: Interval) -> str:
    return interval(*(float(values[-1]) for values in difference))


def _heading() -> list[str]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    )
    device = jax.devices()[0].device_kind
    settings = configuration(Path("DIR"), 0)
    training = settings.segmentation
    return [
        "# Phantom: half of the expert masks hidden, read as unknown and as empty",
        "",
        f"Synthetic images; nothing here is clinical. {date.today()}, {device} ({os.cpu_count()} cores), jax "
        f"{jax.__version__}, commit {commit.stdout.strip()}; `python -m benchmarks.unknown_masks work`.",
        "",
        f"The phantom (version {phantom.VERSION}): {_PHANTOM['valid']} expert images, each with a random half of the "
        f"ten tasks annotated, {_PHANTOM['test']} test images with all of them (lateral views left out of both). "
        f"{training.decoder} on {settings.encoder.model} from random weights, {settings.data.size} px, "
        f"{training.steps} steps of batch {training.batch_size}. Validation images and thresholds see the same hidden "
        "tasks as training.",
        "",
        "Pooled test mIoU of ten tasks. Brackets hold 95 % intervals of the difference, by a paired bootstrap over "
        "test images.",
        "",
    ]


if __name__ == "__main__":
    run_command(main)
