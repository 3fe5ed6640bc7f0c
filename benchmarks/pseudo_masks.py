"""Score a work directory's pseudo-masks against the exact masks of the phantom's training images.

    for pseudo in cam irnet; do for s in 0 1 2; do
      python launch.py --config=configs/weak.py:pseudo=$pseudo,seed=$s; done; done
    python benchmarks/pseudo_masks.py work

IoU is the mean over the pseudo-masked images that show a pathology; a missed label counts as a missed mask.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.images import fit_mask
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError, run_command
from chexseg_jax.evaluation import iou
from chexseg_jax.evaluation.bootstrap import t_interval, with_mean
from chexseg_jax.report.tables import interval, markdown, number


def main() -> None:
    """Print the table for the work directory named on the command line."""
    if len(sys.argv) != 2:
        raise InputError("give one work directory, as in: python benchmarks/pseudo_masks.py work")
    workdir = Path(sys.argv[1])
    scores_of, seen = defaultdict(dict), {}
    for card_file in sorted(workdir.glob("runs/*/model/artifact.json")):
        card = json.loads(card_file.read_text())
        config = json.loads((card_file.parent.parent / "config.json").read_text())
        if not config["root"] and (name := card["key"].get("pseudo")):
            if seen.setdefault((config["pseudo"], config["seed"]), name) != name:
                raise InputError(
                    f"{workdir}: several sets of {config['pseudo']} pseudo-masks of seed {config['seed']}; use "
                    "one work directory for each"
                )
            scores = _iou(workdir / "artifacts" / name, workdir)
            scores_of[config["pseudo"]][config["seed"]] = with_mean(scores)
    if not scores_of:
        raise InputError(f"{workdir}: no run with pseudo-masks of the phantom; launch configs/weak.py first")
    header = ["pathology"]
    for kind, seeds in scores_of.items():
        header.append(f"{kind}, seeds {', '.join(map(str, sorted(seeds)))} [95 % t]")
    body = []
    for k, task in enumerate((*CHEXPERT.tasks, "**mean**")):
        cells = []
        for seeds in scores_of.values():
            values = np.array([scores[k] for scores in seeds.values()])
            cells.append(
                interval(*map(float, t_interval(values))) if len(values) > 1 else number(float(values[0]))
            )
        body.append([task, *cells])
    print("\n".join(markdown(header, body)))


def _iou(pseudo: Path, workdir: Path) -> np.ndarray:
    """Mean IoU per task with the exact masks, at the training size."""
    masked = Prepared.load(pseudo)
    phantoms = list(workdir.glob("artifacts/phantom-*/data/phantom_train_masks.json"))
    if len(phantoms) != 1:
        raise InputError(f"{workdir} holds {len(phantoms)} phantoms; give a work directory with one")
    truth = read_segmentations(phantoms[0])
    exact = np.stack([fit_mask(truth.masks(name), masked.size) for name in masked.ids])
    counts = iou.counts(masked.read_masks(slice(None)), exact)
    each = iou.per_image(counts, true_positives_only=False)
    return iou.mean(np.where(exact.any((1, 2)), each, np.nan), axis=0)


if __name__ == "__main__":
    run_command(main)
