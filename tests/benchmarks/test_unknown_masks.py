import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.unknown_masks import hide_tasks, table, tasks_toml, write_data
from chexseg_jax import phantom
from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT, FILE, Taxonomy, read_taxonomy
from chexseg_jax.evaluation.iou import Counts

ODD = Taxonomy(labels=('A "b"', "Ç"), tasks=("x",), label_of={"x": "Ç"}, aliases={"y": "x"})


def test_half_of_the_tasks_of_every_image_are_hidden_and_a_seed_hides_the_same():
    masks = {f"image{i}": {task: {"counts": str(i)} for task in CHEXPERT.tasks} for i in range(40)}
    kept = hide_tasks(masks, seed=0)
    assert kept == hide_tasks(masks, seed=0) != hide_tasks(masks, seed=1)
    assert all(len(entry) == 5 and entry.items() <= masks[name].items() for name, entry in kept.items())
    times = [sum(task in entry for entry in kept.values()) for task in CHEXPERT.tasks]
    assert min(times) > 8


@pytest.mark.parametrize("taxonomy", [CHEXPERT, replace(CHEXPERT, missing="unknown"), ODD])
def test_tasks_toml_restores_the_taxonomy(tmp_path, taxonomy):
    (tmp_path / FILE).write_text(tasks_toml(taxonomy), encoding="utf-8")
    assert read_taxonomy(tmp_path) == taxonomy


def test_both_data_sets_hide_the_same_masks(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.unknown_masks._PHANTOM", {"train": 1, "valid": 3, "test": 2, "size": 64})
    for missing in ("unknown", "empty"):
        write_data(tmp_path / missing, missing)
    unknown, empty = (
        read_segmentations(root / "gt_segmentations_val.json", read_taxonomy(root))
        for root in (tmp_path / "unknown", tmp_path / "empty")
    )
    assert unknown.entries == empty.entries
    assert [unknown.known(name).sum() for name in unknown.ids] == [5, 5, 5]
    assert all(empty.known(name).all() for name in empty.ids)
    complete = json.loads((tmp_path / "unknown" / "gt_segmentations_test.json").read_text())
    assert all(len(entry) == 10 for entry in complete.values())
    marker = tmp_path / "empty" / phantom.MARKER
    before = marker.stat().st_mtime_ns
    write_data(tmp_path / "empty", "empty")
    assert marker.stat().st_mtime_ns == before


def test_the_table_pairs_seeds():
    positives = np.full((4, 10), 100)

    def counts(overlap):
        return Counts(np.full((4, 10), overlap), np.full((4, 10), 100), positives)

    lines = table([counts(50), counts(60)], [counts(40), counts(40)])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:5]]
    assert cells == [
        ["0", "0.500", "0.400", "0.100 [0.100, 0.100]"],
        ["1", "0.600", "0.400", "0.200 [0.200, 0.200]"],
        ["**mean**", "**0.550**", "**0.400**", "**0.150 [0.150, 0.150]**"],
    ]
    assert "over seeds: 0.150 [" in lines[-1]
