"""The numbers that the paper prints, all on the radiologists' masks of CheXpert."""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from chexseg_jax.settings import Setting

#: Numbers of pseudo-masks in the paper's Table 1: in its mixtures, and at p = 0.
MIXTURE_COUNT, WEAK_COUNT = 100, 20000


class Number(NamedTuple):
    """An IoU and half the width of its 95 % interval; nan where the paper prints no interval."""

    iou: float
    half_width: float = math.nan


#: (model, task or "mean" for the mean over the paper's ten tasks) -> number.
Papers = Mapping[tuple[Setting, str], Number]


def load_papers() -> Papers:
    """Read the paper's Tables 1 and 2.

    Table 1 has the IoU of each task, without intervals; Table 2 the mean of weakly supervised models, with them. The
    models that are in both have the same mean.
    """
    numbers = {}
    for row in _rows("paper_table1.csv"):
        p, task = float(row["p"]), row["task"]
        setting = Setting.of(p, "chexpert", row["pseudo_labels"], MIXTURE_COUNT if p else WEAK_COUNT)
        numbers[setting, "mean" if task == "Mean IoU" else task] = Number(float(row["iou"]))
    for row in _rows("paper_table2.csv"):
        setting = Setting(0.0, row["init"], row["pseudo_labels"], int(row["count"]))
        numbers[setting, "mean"] = Number(float(row["miou"]), float(row["ci95_half_width"]))
    return numbers


def _rows(name: str) -> Iterator[dict[str, str]]:
    with (Path(__file__).parent / name).open(newline="") as file:
        yield from csv.DictReader(file)
