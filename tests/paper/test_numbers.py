"""The paper's tables, as shipped."""

from pathlib import Path

import numpy as np
import pytest

from chexseg_jax import paper
from chexseg_jax.paper.numbers import load_papers
from chexseg_jax.settings import Setting


def test_the_papers_numbers():
    numbers = load_papers()
    semi, weak, full = (
        numbers[setting, "mean"].iou
        for setting in (
            Setting(0.9, "chexpert", "cam", 100),
            Setting(0, "chexpert", "irnet", 20000),
            Setting(1.0, "chexpert", "", 0),
        )
    )
    assert semi / full - 1 == pytest.approx(0.097, abs=1e-3)
    assert semi / weak - 1 == pytest.approx(0.731, abs=1e-3)
    assert len(numbers) == 11 * (2 * 7 + 1) + 2 * 4 * 3 - 2  # the two best weak models are in both tables
    assert numbers[Setting(0.0, "moco", "irnet", 2000), "mean"] == (0.120, 0.00010)
    assert numbers[Setting(0.85, "chexpert", "irnet", 100), "Edema"].iou == 0.242


def test_the_means_are_those_of_the_papers_ten_tasks():
    numbers = load_papers()
    for setting in {setting for setting, task in numbers if task != "mean"}:
        tasks = [number.iou for (s, task), number in numbers.items() if s == setting and task != "mean"]
        assert len(tasks) == 10
        assert np.mean(tasks) == pytest.approx(numbers[setting, "mean"].iou, abs=4e-3)


@pytest.mark.real_data
def test_the_shipped_tables_are_the_shared_ones(shared):
    for name in ("paper_table1.csv", "paper_table2.csv"):
        shipped = Path(paper.__file__).parent / name
        assert shipped.read_bytes() == (shared / "reference" / name).read_bytes()
