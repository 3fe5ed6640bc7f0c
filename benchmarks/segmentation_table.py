"""Print the mean test mIoU over seeds for each setting (encoder, initialisation, p, pseudo-masks) in a work directory.

Only runs of trial 0 count.

    for p in 0 0.9 1; do for s in 0 1 2; do python launch.py --config=configs/semi.py:p=$p,seed=$s; done; done
    python benchmarks/segmentation_table.py work
"""

import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from chexseg_jax.errors import InputError, run_command
from chexseg_jax.evaluation.bootstrap import t_interval
from chexseg_jax.report.tables import interval, markdown, number


def main() -> None:
    """Print the table for the work directory named on the command line."""
    if len(sys.argv) != 2:
        raise InputError("give one work directory, as in: python benchmarks/segmentation_table.py work")
    runs, shared, seen = defaultdict(dict), {}, {}
    for path in sorted(Path(sys.argv[1]).glob("runs/*/scores.json")):
        config = json.loads((path.parent / "config.json").read_text())
        if config.get("trial"):
            continue
        training = [config["root"], config["data"], config["segmentation"]]
        shared.setdefault(json.dumps(training, sort_keys=True), path.parent)
        if len(shared) > 1:
            one, other = shared.values()
            raise InputError(f"{one} and {other} differ in data or training; use one work directory for each")
        if (other := seen.setdefault((_setting(config), config["seed"]), path.parent)) != path.parent:
            raise InputError(
                f"{other} and {path.parent} belong to one row but differ in settings; use one work directory each"
            )
        runs[_setting(config)][config["seed"]] = json.loads(path.read_text())
    if not runs:
        raise InputError(
            f"{sys.argv[1]}: no runs/*/scores.json; launch segmentations with this workdir first"
        )
    runs = dict(sorted(runs.items()))
    varies = [len({setting[i] for setting in runs}) > 1 for i in range(4)]
    titles = [
        ", ".join(filter(None, itertools.compress(_words(*setting), varies))) or "all" for setting in runs
    ]
    rows = [_row(title, list(runs[setting].values())) for title, setting in zip(titles, runs, strict=True)]
    every = [scores for by_seed in runs.values() for scores in by_seed.values()]
    for title, key in (("centred box", "box_pooled"), ("second reader", "reader_pooled")):
        if known := [scores[key]["mean"] for scores in every if key in scores]:
            rows.append([title, "", number(np.mean(known)), "", ""])
    print(
        "Test mIoU; brackets hold 95 % intervals: over seeds by Student's t, over test images by bootstrap (mean of "
        "the seeds' limits).\n"
    )
    header = ["", "seeds", "pooled, mean [over seeds]", "[over images]", "per image, mean [over seeds]"]
    print("\n".join(markdown(header, rows)))
    for (model, init, p, pseudo), by_seed in runs.items():
        full = runs.get((model, init, 1.0, ""), {})
        if p < 1 and len(both := by_seed.keys() & full.keys()) > 1:
            cost = np.array([by_seed[s]["pooled"]["mean"] - full[s]["pooled"]["mean"] for s in sorted(both)])
            difference = interval(*map(float, t_interval(cost)))
            print(f"\n{model}, {init}: p = {p:g} {pseudo} less p = 1, paired by seed: {difference}.")
    print("\nPooled IoU per pathology, mean over the seeds.\n")
    body = []
    for task, count in every[0]["positives"].items():
        cells = [_over_seeds(s["pooled"][task] for s in by_seed.values()) for by_seed in runs.values()]
        body.append([task, str(count), *cells, _over_seeds(s["box_pooled"][task] for s in every)])
    header = ["pathology", "positive test masks", *titles, "centred box"]
    print("\n".join(markdown(header, body)))


def _setting(config: dict) -> tuple[str, str, float, str]:
    """The values that distinguish a table's runs, besides the seed."""
    return (
        config["encoder"]["model"],
        config["init"],
        config["p"],
        f"{config['pseudo']} {config['pseudo_count']}" if config["p"] < 1 else "",
    )


def _words(model: str, init: str, p: float, pseudo: str) -> tuple[str, str, str, str]:
    return model, init, f"p = {p:g}", pseudo


def _row(title: str, runs: list[dict]) -> list[str]:
    pooled, each = (np.array([scores[key]["mean"] for scores in runs]) for key in ("pooled", "per_image"))
    limits = np.mean([scores["pooled_95"]["mean"] for scores in runs], axis=0)
    cells = [
        interval(*map(float, t_interval(values))) if len(runs) > 1 else number(values[0])
        for values in (pooled, each)
    ]
    return [title, str(len(runs)), cells[0], f"[{limits[0]:.3f}, {limits[1]:.3f}]", cells[1]]


def _over_seeds(values: Iterable[float | None]) -> str:
    values = list(values)
    return number(None if None in values else float(np.mean(values)))


if __name__ == "__main__":
    run_command(main)
