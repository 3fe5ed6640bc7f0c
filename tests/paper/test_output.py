"""Tables, figures and the page of finished runs whose scores are made up."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from chexseg_jax.data.chexlocalize import write_segmentations
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.evaluation import bootstrap, iou
from chexseg_jax.experiment import Chain
from chexseg_jax.paper import tables
from chexseg_jax.paper.gallery import Gallery
from chexseg_jax.paper.output import write_paper
from chexseg_jax.paper.results import Results, papers
from chexseg_jax.settings import Setting, trials
from configs import table1, table2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A phantom's sources and prepared test set."""
    config = table1.get_config("smoke")
    config.phantom.update(train=8, valid=12, test=10, size=64)
    config.data.size = 48
    return Chain.open(config, tmp_path_factory.mktemp("work")).data


def finished(config, data, folder) -> Results:
    """Made-up runs: masks of the truth with pixels lost at random, fewer with a mixture than at its ends."""
    truth = data.sources.test.segmentations
    reader = data.sources.second_reader
    records, names = {}, Prepared.load(data.test).ids
    for number, trial in enumerate(trials(config)):
        rng = np.random.default_rng(number)
        kept = {0.0: 0.3, 1.0: 0.5}.get(trial.setting.p, 0.7) + 0.02 * trial.number
        masks = {name: truth.masks(name) for name in names}
        predicted = {name: mask & (rng.random(mask.shape) < kept) for name, mask in masks.items()}
        scores = folder / f"scores-{number}"
        scores.mkdir(parents=True)
        write_segmentations(scores / "predictions.json", predicted.items())
        arrays = {}
        for who, other in (
            ("model", predicted),
            ("reader", {n: reader.masks(n) for n in names}),
            ("box", masks),
        ):
            rows = [iou.counts(other[name], masks[name]) for name in names]
            arrays |= {f"{who}_{f}": np.stack([getattr(row, f) for row in rows]) for f in iou.Counts._fields}
        np.savez(scores / "counts.npz", **arrays)
        records[(*trial,)] = {"model": "model", "scores": scores.name}
    return Results.load(folder, records)


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    """(folder, config, results) of Table 1, one run missing."""
    config, folder = table1.get_config("smoke"), tmp_path_factory.mktemp("table1")
    results = finished(config, data, folder / "artifacts")
    del results[Setting(0.9, "chexpert", "irnet", 20)]
    missing = {"p=0.9,irnet,20,chexpert,trial=0": "not run yet"}
    write_paper(folder, config, data.sources, data.test, results, missing)
    return folder, config, results


def test_table_1_holds_means_over_trials_and_says_what_is_missing(written):
    folder, _, results = written
    text = re.sub(" +", " ", (folder / "tables" / "table1.md").read_text())
    assert "results on the phantom: synthetic images" in text
    setting = Setting(0.9, "chexpert", "cam", 20)
    mean, low, high = (float(end[-1]) for end in results.over_trials(setting))
    assert f"| {mean:.3f} [{low:.3f}, {high:.3f}] |" in text
    assert mean == pytest.approx(np.mean([np.nanmean(iou.pooled(c)) for c in results.counts(setting)]))
    row = next(line for line in text.splitlines() if line.startswith("| p = 0.9 |"))
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["-", "0.270", "0.267"]
    assert "**Runs missing: 1** (not run yet): p=0.9,irnet,20,chexpert,trial=0." in text
    assert "The paper's shape, CAM: p = 0 is the lowest: yes; the greatest lies inside (0, 1): yes" in text
    assert re.search(r"\| p = 0, 60 masks \| .* \| 0.142 \| 0.156 \|", text)
    assert re.search(r"\| p = 0 \| .*\] \| \| \|", text)  # with as few masks the paper has none


def test_a_mean_over_fewer_trials_says_so(written):
    _, config, results = written
    setting = Setting(0.9, "chexpert", "cam", 20)
    fewer = Results({**results, setting: results[setting][:1]})
    cells = [row[1] for row in tables.table1(config, fewer)[0].rows]
    assert [cell.endswith("(n = 1)") for cell in cells] == [False, False, True, False]


@pytest.mark.parametrize("weak_count", [0, 20])
def test_without_weak_models_of_more_masks_there_is_one_row_of_p_0(written, weak_count):
    _, config, results = written
    config = config.copy_and_resolve_references()
    config.weak_count = weak_count
    rows = tables.table1(config, results)[0].rows
    assert [row[0] for row in rows] == ["p = 0", "p = 0.9", "p = 1"]
    assert rows[0][3:] == ["0.142", "0.156"]


def test_nothing_is_said_of_the_shape_of_a_part(written):
    _, config, results = written
    assert len(tables.shape(config, results)) == 1  # IRNet's p = 0.9 is missing
    part = config.copy_and_resolve_references()
    for p in ((0.0, 0.9), (0.9, 1.0), (0.0, 1.0)):
        part.grid.p = p
        assert tables.shape(part, results) == []


def test_a_second_reader_who_did_not_read_all_is_told(written, data, tmp_path):
    folder, config, results = written
    reader = data.sources.second_reader
    first, *others = reader.ids
    partly = replace(reader, entries={name: reader.entries[name] for name in others})
    sources = replace(data.sources, second_reader=partly)
    assert (data.sources.reader_note, replace(sources, second_reader=None).reader_note) == ("", "")
    assert sources.reader_note.startswith("1 of the ")
    assert f"are not in {reader.path.name} ({first}): " in sources.reader_note
    write_paper(tmp_path, config, sources, data.test, results, {})
    assert sources.reader_note in (tmp_path / "tables" / "table1.md").read_text()
    assert "count as empty" not in (folder / "tables" / "table1.md").read_text()


def test_a_table_of_refreshed_masks_says_what_sets_its_runs_apart(written, data, tmp_path):
    folder, config, results = written
    refreshed = config.copy_and_resolve_references()
    refreshed.refreshes = 1
    write_paper(tmp_path, refreshed, data.sources, data.test, results, {})
    told = "Not the paper's recipe"
    assert told in (tmp_path / "tables" / "table1.md").read_text()
    assert told in (tmp_path / "report.html").read_text()
    assert told not in (folder / "report.html").read_text()


def test_comparisons_are_paired(written):
    folder, _, results = written
    text = re.sub(" +", " ", (folder / "tables" / "table1.md").read_text())
    semi, full = results.semi, results.full
    gain = bootstrap.paired_difference(results.counts(semi), results.counts(full), replicates=100)
    assert gain.lower[-1] > 0
    assert f"| {gain.estimate[-1]:.3f} [{gain.lower[-1]:.3f}, {gain.upper[-1]:.3f}] |" in text
    assert "closes | " in text
    assert "| 57.2 % |" in text


def test_csv_holds_every_trial(written):
    folder, _, results = written
    with (folder / "tables" / "table1.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 11 * sum(map(len, results.values()))
    line = next(
        line for line in lines if line["pathology"] == "mean" and line["trial"] == "1" and line["p"] == "1.0"
    )
    expected = np.nanmean(iou.pooled(results.counts(results.full)[1]))
    assert float(line["pooled_iou"]) == pytest.approx(expected, abs=1e-6)
    assert {line["data"] for line in lines} == {"phantom: synthetic images, not patients"}


def test_latex_has_one_cell_a_column(written):
    folder, *_ = written
    text = (folder / "tables" / "table1.tex").read_text()
    lines = text.splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrr}"
    assert all(line.count(" & ") == 4 for line in lines[3:4] + lines[5:7])
    assert r"57.2 \%" in text
    told = [
        line for line in lines if line.startswith(r"\multicolumn") and "phantom: synthetic images" in line
    ]
    assert len(told) == text.count(r"\begin{tabular}")  # a comment would be lost where a table is pasted


def test_figures_are_pictures(written):
    folder, *_ = written
    for name in ("fig2", "fig4", "fig5"):
        assert np.asarray(Image.open(folder / "figures" / f"{name}.png")).std() > 5
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_runs_give_the_same_bytes(written, data, tmp_path):
    folder, config, results = written
    write_paper(
        tmp_path, config, data.sources, data.test, results, {"p=0.9,irnet,20,chexpert,trial=0": "not run yet"}
    )
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 10
    for path in made:
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes(), path


def test_table_2_by_initialisation(data, tmp_path):
    config = table2.get_config("smoke")
    results = finished(config, data, tmp_path / "artifacts")
    for setting in list(results):
        if setting.init == "imagenet":
            del results[setting]
    write_paper(tmp_path, config, data.sources, data.test, results, {"imagenet": "no weights"})
    text = re.sub(" +", " ", (tmp_path / "tables" / "table2.md").read_text())
    assert "| ImageNet | 20 | - | - |" in text
    assert "| the paper, CheXpert | 20000 | 0.142 | 0.156 |" in text
    assert (tmp_path / "figures" / "fig3.png").exists()
    assert not (tmp_path / "figures" / "fig2.png").exists()


def test_the_page_is_one_file_and_holds_all_masks(written, data):
    folder, _, results = written
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    held = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    gallery = Gallery.open(data.test, results, data.sources.second_reader)
    assert held["sources"] == [
        "ground truth",
        "semi-supervised",
        "weakly supervised",
        "fully supervised",
        "second reader",
    ]
    assert [image["id"] for image in held["images"]] == list(gallery.ids)
    for row, image in enumerate(held["images"]):
        assert set(image["masks"]["ground truth"]) == set(map(str, np.flatnonzero(gallery.shown[row])))
    assert page.count("<figure>") == page.count("<figcaption>") == 3
    assert f"S{results.semi.words[1:]}, trial 0. W{results.weak.words[1:]}, trial 0. F" in page
    assert f"Figure 5. IoU of each pathology: second reader; {results.semi.words}; " in page


def test_no_finished_run_writes_nothing(data, tmp_path):
    write_paper(
        tmp_path, table1.get_config("smoke"), data.sources, data.test, Results(), {"all": "not run yet"}
    )
    assert not list(tmp_path.iterdir())


def test_an_old_page_is_not_taken_for_one_of_these_runs(written, data, capsys):
    folder, config, _ = written
    before = (folder / "report.html").read_bytes()
    write_paper(folder, config, data.sources, data.test, Results(), {})
    assert "what is there was made of runs that no longer hold" in capsys.readouterr().err
    assert (folder / "report.html").read_bytes() == before


def test_without_a_second_reader_the_gap_is_left_out(written, data, tmp_path):
    _, config, results = written
    runs = {
        setting: tuple(
            replace(run, counts={k: v for k, v in run.counts.items() if k != "reader"}) for run in of
        )
        for setting, of in results.items()
    }
    sources = replace(data.sources, second_reader=None)
    write_paper(tmp_path, config, sources, data.test, Results(runs), {})
    text = (tmp_path / "tables" / "table1.md").read_text()
    assert "second reader" not in text
    assert "less fully supervised" in text


def test_the_papers_numbers():
    numbers = papers()
    semi, weak, full = (
        numbers[Setting(0.9, "chexpert", "cam", 100)],
        numbers[Setting(0, "chexpert", "irnet", 20000)],
        numbers[Setting(1.0, "chexpert", "", 0)],
    )
    assert semi / full - 1 == pytest.approx(0.097, abs=1e-3)
    assert semi / weak - 1 == pytest.approx(0.731, abs=1e-3)
