"""Measure what each part of `recipe=plus` adds to the published recipe: three paired trials at p = 0.9.

    python -m benchmarks.recipe work > benchmarks/results/phantom_recipe.md

Finished stages in the work directory are reused; one of the runs is
`python launch.py --config=configs/semi.py:p=0.9,trial=1,recipe=plus`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from chexseg_jax.errors import InputError, run_command
from chexseg_jax.evaluation.bootstrap import paired_difference, t_interval, trial_scores
from chexseg_jax.evaluation.iou import load_counts
from chexseg_jax.experiment import Run
from chexseg_jax.report.tables import interval, markdown
from configs import semi

_TRIALS = 3


def variants() -> dict[str, ConfigDict]:
    """Title -> configuration; all are compared with the first."""
    paper, plus = semi.get_config("p=0.9"), semi.get_config("p=0.9,recipe=plus")
    longer, refreshed, mirrored = (x.copy_and_resolve_references() for x in (paper, paper, plus))
    longer.segmentation.update(
        steps=2 * paper.segmentation.steps, checkpoint_every=2 * paper.segmentation.checkpoint_every
    )
    refreshed.refreshes = plus.refreshes
    mirrored.refreshes = paper.refreshes
    return {
        "the paper's": paper,
        "the paper's, twice the steps": longer,
        "+ refreshed pseudo-masks": refreshed,
        "+ mirror images": mirrored,
        "plus: both": plus,
    }


def main() -> None:
    """Print the table for the work directory named on the command line."""
    if len(sys.argv) != 2:
        raise InputError("give one work directory, as in: python -m benchmarks.recipe work")
    base = Run.open(semi.get_config("p=0.9"), Path(sys.argv[1]))
    counts = {}
    for title, config in variants().items():
        counts[title] = []
        for trial in range(_TRIALS):
            config.trial = trial
            scores = replace(base, config=config).segmentation().scores
            counts[title].append(load_counts(scores)["model"])
    paper = next(iter(counts.values()))
    rows = []
    for title, trials in counts.items():
        miou = trial_scores(trials)[:, -1]
        own, gain = t_interval(miou), t_interval(miou - trial_scores(paper)[:, -1])
        over_images = [float(x[-1]) for x in paired_difference(trials, paper)]
        cells = [interval(*map(float, own))]
        if trials is not paper:
            share = f"{gain.estimate / trial_scores(paper)[:, -1].mean():+.1%}"
            cells += [share, interval(*over_images), interval(*map(float, gain))]
        rows.append([title, *cells, *[""] * (4 - len(cells))])
    print(
        f"Pooled test mIoU at p = 0.9, {_TRIALS} trials (other pseudo-sets, other seeds of the segmentation). "
        "Brackets hold 95 % intervals: over trials by Student's t; of the gain also over test images, by a paired "
        "bootstrap.\n"
    )
    header = ["recipe", "mIoU [over trials]", "gain", "gain [over images]", "gain [over trials]"]
    print("\n".join(markdown(header, rows)))


if __name__ == "__main__":
    run_command(main)
