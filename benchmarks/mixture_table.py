"""Mean test mIoU over seeds for each p, from the runs in a work directory.

for p in 0 0.9 1; do for s in 0 1 2; do python launch.py --config=configs/semi.py:p=$p,seed=$s; done; done
python benchmarks/mixture_table.py work > benchmarks/results/phantom_mixture.md
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from chexseg_jax.errors import InputError, run_command
from chexseg_jax.evaluation.bootstrap import t_interval
from chexseg_jax.evaluation.tables import interval, markdown, number


def main() -> None:
    """Prints the table of the work directory named on the command line."""
    if len(sys.argv) != 2:
        raise InputError("give one work directory, as in: python benchmarks/mixture_table.py work")
    runs = defaultdict(dict)
    for path in sorted(Path(sys.argv[1]).glob("runs/*/scores.json")):
        config = json.loads((path.parent / "config.json").read_text())
        runs[config["p"]][config["seed"]] = json.loads(path.read_text())
    if not runs:
        raise InputError(
            f"{sys.argv[1]}: no runs/*/scores.json; launch configs/semi.py with this workdir first"
        )
    columns = ("pooled", "per_image", "box_pooled", "reader_pooled")
    header = ["p", "seeds", "mIoU pooled [95 % t]", "mIoU per image [95 % t]", "centred box", "second reader"]
    rows = []
    for p, by_seed in sorted(runs.items()):
        values = {c: [s[c]["mean"] for s in by_seed.values() if c in s] for c in columns}
        intervals = [interval(*map(float, t_interval(np.array(values[c])))) for c in columns[:2]]
        yardsticks = [number(np.mean(values[c]) if values[c] else None) for c in columns[2:]]
        rows.append([f"{p:g}", ", ".join(map(str, sorted(by_seed))), *intervals, *yardsticks])
    print("\n".join(markdown(header, rows)))
    first = next(iter(runs.values()))
    positives = next(iter(first.values()))["positives"]
    print("\nPooled IoU per pathology, mean over the seeds; positive test masks beside each.\n")
    body = []
    for task, count in positives.items():
        cells = []
        for _, by_seed in sorted(runs.items()):
            values = [s["pooled"][task] for s in by_seed.values()]
            cells.append(number(None if None in values else np.mean(values)))
        body.append([task, str(count), *cells])
    print("\n".join(markdown(["pathology", "masks", *(f"p={p:g}" for p in sorted(runs))], body)))


if __name__ == "__main__":
    run_command(main)
