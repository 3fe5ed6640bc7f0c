"""Tables, figures and the page of finished runs with synthetic scores."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from chexseg_jax.artifact import Store
from chexseg_jax.data.chexlocalize import write_segmentations
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.evaluation import bootstrap, iou
from chexseg_jax.paper import efficiency, figures, tables
from chexseg_jax.paper.output import open_gallery, write_paper
from chexseg_jax.paper.results import Results, Run
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.settings import Setting, trials
from chexseg_jax.sources import Sources, open_sources
from chexseg_jax.stages.prepare import prepare
from configs import label_efficiency, table1, table2


class Data(NamedTuple):
    sources: Sources
    test: Path

    @property
    def tasks(self):
        return self.sources.taxonomy.tasks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A phantom's sources and its prepared test set."""
    config = table1.get_config("smoke")
    config.phantom.update(train=8, valid=12, test=10, size=64)
    store = Store(tmp_path_factory.mktemp("work"))
    sources = open_sources(store, config)
    settings = ConfigDict({"size": 48, "views": "frontal", "max_missing": 0.01})
    test = store.make("prepare-test", prepare, collective=True, config=settings, split=sources.test)
    return Data(sources, test)


def finish(config, data, folder) -> Results:
    """Synthetic runs: the truth's masks without random pixels; mixtures keep more of them than p = 0 and p = 1."""
    truth, reader = data.sources.test.segmentations, data.sources.second_reader
    test = Prepared.load(data.test)
    finished, names = {}, test.take(np.flatnonzero(test.listed)).ids
    for number, trial in enumerate(trials(config)):
        rng = np.random.default_rng(number)
        kept = {0.0: 0.3, 1.0: 0.5}.get(trial.setting.p, 0.7) + 0.02 * trial.number
        masks = {name: truth.masks(name) for name in names}
        predicted = {name: mask & (rng.random(mask.shape) < kept) for name, mask in masks.items()}
        scores = folder / f"scores-{number}"
        scores.mkdir(parents=True)
        write_segmentations(scores / "predictions.json", predicted, truth.taxonomy)
        others = {"model": predicted, "reader": {n: reader.masks(n) for n in names}, "box": masks}
        counts = {who: [iou.counts(other[n], masks[n]) for n in names] for who, other in others.items()}
        iou.save_counts(scores, counts)
        finished[trial] = scores
    return Results.load(finished)


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    """(folder, config, results) of Table 1, one run missing."""
    config, folder = table1.get_config("smoke"), tmp_path_factory.mktemp("table1")
    results = finish(config, data, folder / "artifacts")
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
    assert re.search(r"\| p = 0 \| .*\] \| 0.129 \| 0.125 \|", text)  # the paper's Table 2, with 100 masks
    assert "The paper's models have 100, and 20000 beside our 60." in text
    assert re.search(r"\| p = 0, equal steps \| .*\] \| - \| - \|", text)
    assert "Equal steps: as many updates as 0 < p < 1 has" in text


def test_table_1_has_the_papers_iou_of_each_task_below_ours(written):
    folder, *_ = written
    text = re.sub(" +", " ", (folder / "tables" / "table1.md").read_text())
    for labeller, numbers in {
        "CAM": "0.056 | - | 0.114 | 0.103 | - | -",
        "IRNet": "0.076 | - | 0.110 | 0.103 | - | -",
    }.items():
        table = text.partition(f"IoU of each pathology, {labeller}.")[2]
        assert "| pathology | p = 0, 60 masks | p = 0 | p = 0.9 | p = 1 | p = 0, equal steps |" in table
        assert f"| Consolidation (the paper, CheXpert) | {numbers} |" in table
    assert "| mean (the paper, CheXpert) | 0.142 | 0.129 | 0.270 | 0.246 | - | - |" in text
    assert (
        r"Consolidation (the paper, CheXpert) & 0.056 & - & 0.114 & 0.103 & - & - \\"
        in (folder / "tables" / "table1.tex").read_text()
    )
    assert "Consolidation (the paper, CheXpert)" in (folder / "report.html").read_text()


def test_a_mean_over_fewer_trials_says_so(written, data):
    _, config, results = written
    setting = Setting(0.9, "chexpert", "cam", 20)
    fewer = Results({**results, setting: results[setting][:1]})
    cells = [row[1] for row in tables.table1(config, fewer, data.tasks)[0].rows]
    assert [cell.endswith("(n = 1)") for cell in cells] == [False, False, True, False, False, False]


@pytest.mark.parametrize("weak_count", [0, 20])
def test_without_weak_models_with_more_masks_p_0_has_one_row(written, data, weak_count):
    _, config, results = written
    config = config.copy_and_resolve_references()
    config.weak_count = weak_count
    rows = tables.table1(config, results, data.tasks)[0].rows
    assert [row[0] for row in rows][:3] == ["p = 0", "p = 0.9", "p = 1"]
    assert rows[0][3:] == ["0.129", "0.125"]


def test_a_part_of_the_grid_gets_no_statement_about_its_shape(written):
    _, config, results = written
    assert len(tables.shape(config, results)) == 2  # on each clock; IRNet's p = 0.9 is missing
    part = config.copy_and_resolve_references()
    for p in ((0.0, 0.9), (0.9, 1.0), (0.0, 1.0)):
        part.grid.p = p
        assert tables.shape(part, results) == []


@pytest.mark.usefixtures("undrawn")
def test_the_tables_say_if_the_second_reader_read_only_some_images(written, data, tmp_path):
    folder, config, results = written
    reader = data.sources.second_reader
    first, *others = reader.ids
    partly = replace(reader, entries={name: reader.entries[name] for name in others})
    sources = with_reader(data.sources, partly)
    assert f"are not in {reader.path.name} ({first}): " in sources.reader_note
    write_paper(tmp_path, config, sources, data.test, results, {})
    assert sources.reader_note in (tmp_path / "tables" / "table1.md").read_text()
    assert "count as empty" not in (folder / "tables" / "table1.md").read_text()


def test_tasks_that_the_second_reader_did_not_annotate_are_counted(data):
    reader, taxonomy = data.sources.second_reader, replace(data.sources.taxonomy, missing="unknown")
    entries = {i: {t: code for t, code in one.items() if t != "Edema"} for i, one in reader.entries.items()}
    truth = replace(data.sources.test.segmentations, taxonomy=taxonomy)
    sources = replace(data.sources, test=replace(data.sources.test, segmentations=truth), taxonomy=taxonomy)
    sources = with_reader(sources, replace(reader, entries=entries, taxonomy=taxonomy))
    assert sources.reader_note.startswith(
        f"{len(truth)} pairs of image and task are not in {reader.path.name}: "
    )


def with_reader(sources, reader):
    return replace(sources, test=replace(sources.test, second_reader=reader))


def test_named_comparisons_pair_trials_and_images(written):
    folder, _, results = written
    text = re.sub(" +", " ", (folder / "tables" / "table1.md").read_text())
    mixed, full = Setting(0.9, "chexpert", "cam", 20), Setting(1.0, "chexpert", "", 20, clock="steps")
    ours, theirs = (bootstrap.trial_scores(results.counts(s))[:, -1] for s in (mixed, full))
    over_trials = bootstrap.t_interval(ours - theirs)
    assert over_trials.estimate == pytest.approx(np.mean(ours) - np.mean(theirs))
    (row,) = [
        line for line in text.splitlines() if line.startswith("| p = 0.9, CAM, minus p = 1, equal steps")
    ]
    cells = [cell.strip() for cell in row.split("|")[2:6]]
    assert cells[0] == "2"
    assert cells[1] == f"{over_trials.estimate / np.mean(theirs):+.1%}".replace("%", " %")
    assert cells[3] == "{:.3f} [{:.3f}, {:.3f}]".format(*map(float, over_trials))
    assert "| p = 0.9, IRNet, minus" not in text  # whose runs are missing


def test_label_efficiency_has_a_table_a_figure_and_its_comparisons(data, tmp_path):
    config = label_efficiency.get_config("smoke")
    results = finish(config, data, tmp_path / "artifacts")
    write_paper(tmp_path, config, data.sources, data.test, results, {})
    text = re.sub(" +", " ", (tmp_path / "tables" / "label_efficiency.md").read_text())
    assert "| expert images | p = 0.9, 20 CAM masks | p = 1 | p = 1, equal steps |" in text
    few = results.over_trials(Setting(1.0, "chexpert", "", 20, experts=12, clock="steps"))
    row = next(line for line in text.splitlines() if line.startswith("| 12 |"))
    assert row.endswith("| {:.3f} [{:.3f}, {:.3f}] |".format(*(float(end[-1]) for end in few)))
    assert "| 12 expert images: p = 0.9, 20 CAM masks, minus p = 1, equal steps | 2 |" in text
    assert "| all expert images: p = 0.9, 20 CAM masks, minus p = 1 | 2 |" in text
    assert Image.open(tmp_path / "figures" / "label_efficiency.png").size[0] > 500
    assert (
        "Label efficiency. Mean IoU by the number of expert images." in (tmp_path / "report.html").read_text()
    )


def test_label_efficiency_draws_weak_models_too(data, tmp_path):
    config = label_efficiency.get_config("smoke")
    config.grid.p = (0.0, 0.9, 1.0)
    results = finish(config, data, tmp_path / "artifacts")
    write_paper(tmp_path, config, data.sources, data.test, results, {})
    assert "p = 0, 20 CAM masks, equal steps" in (tmp_path / "tables" / "label_efficiency.md").read_text()
    styles = [
        tuple(efficiency._style(setting, below=[0.0, 0.9]).values())
        for setting in {trial.setting._replace(experts=0) for trial in trials(config)}
    ]
    assert len(set(styles)) == len(styles) == 5


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
    assert (line["paper_chexpert_pooled_iou"], line["paper_chexpert_count"]) == ("0.246", "0")
    theirs = {
        (line["p"], line["count"], line["pathology"]): line["paper_chexpert_pooled_iou"]
        for line in lines
        if line["pseudo"] == "cam"
    }
    assert [
        theirs[key] for key in (("0.9", "20", "Edema"), ("0.0", "60", "mean"), ("0.0", "20", "Edema"))
    ] == [
        "0.270",
        "0.142",
        "",
    ]
    assert {line["data"] for line in lines} == {"phantom: synthetic images, not patients"}


def test_each_latex_row_has_one_cell_per_column(written):
    folder, *_ = written
    text = (folder / "tables" / "table1.tex").read_text()
    lines = text.splitlines()
    assert lines[1] == r"\begin{tabular}{lrrrr}"
    assert all(line.count(" & ") == 4 for line in lines[3:4] + lines[5:7])
    assert r"57.2 \%" in text
    data = [
        line for line in lines if line.startswith(r"\multicolumn") and "phantom: synthetic images" in line
    ]
    assert len(data) == text.count(r"\begin{tabular}")  # a comment would be lost when a table is pasted


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
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 10
    for path in files:
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes(), path


def test_table_2_by_initialisation(data, tmp_path):
    config = table2.get_config("smoke")
    results = finish(config, data, tmp_path / "artifacts")
    for setting in list(results):
        if setting.init == "imagenet":
            del results[setting]
    absent = {trial: "no weights" for trial in trials(config) if trial.setting.init == "imagenet"}
    write_paper(tmp_path, config, data.sources, data.test, results, {}, absent)
    text = re.sub(" +", " ", (tmp_path / "tables" / "table2.md").read_text())
    assert "| ImageNet | 20 | absent | absent | - | - |" in text
    assert "| ImageNet | 100 | - | - | 0.082 ± 0.00396 | 0.081 ± 0.00245 |" in text
    assert "| ImageNet | absent | - |" in text
    assert re.search(r"\| CheXpert \| 0\.\d+ \[.*\] \| 0.246 \|", text)
    assert re.search(r"\| random \| 0\.\d+ \[.*\] \| - \|", text)
    assert "**Absent.** Runs absent: 10 (no weights): p=0,cam,20,imagenet; " in text
    assert "| CheXpert | 20000 | - | - | 0.142 ± 0.00095 | 0.156 ± 0.00000 |" in text
    assert re.search(r"\| CheXpert \| 20 \| 0\.\d+ \[.*\] \| 0\.\d+ \[.*\] \| - \| - \|", text)
    assert r"0.132 $\pm$ 0.00687" in (tmp_path / "tables" / "table2.tex").read_text()
    assert (tmp_path / "figures" / "fig3.png").exists()
    assert not (tmp_path / "figures" / "fig2.png").exists()


def test_the_page_is_one_file_and_holds_all_masks(written, data):
    folder, _, results = written
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    embedded = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    gallery = open_gallery(data.test, data.sources, results)
    assert embedded["sources"] == [
        "ground truth",
        "semi-supervised",
        "weakly supervised",
        "fully supervised",
        "second reader",
    ]
    assert [image["id"] for image in embedded["images"]] == list(gallery.prepared.ids)
    has_mask = gallery.prepared.has_mask()
    for row, image in enumerate(embedded["images"]):
        assert set(image["masks"]["ground truth"]) == set(map(str, np.flatnonzero(has_mask[row])))
    assert page.count("<figure>") == page.count("<figcaption>") == 3
    assert f"S{results.semi.words[1:]}, trial 0. W{results.weak.words[1:]}, trial 0. F" in page
    assert f"Figure 5. IoU of each pathology: second reader; {results.semi.words}; " in page


def test_without_a_finished_run_nothing_is_written(data, tmp_path):
    write_paper(
        tmp_path, table1.get_config("smoke"), data.sources, data.test, Results(), {"all": "not run yet"}
    )
    assert not list(tmp_path.iterdir())


def test_an_existing_page_without_finished_runs_is_called_outdated(written, data, capsys):
    folder, config, _ = written
    before = (folder / "report.html").read_bytes()
    write_paper(folder, config, data.sources, data.test, Results(), {})
    assert "the existing report.html is outdated" in capsys.readouterr().err
    assert (folder / "report.html").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_without_a_second_reader_the_gap_is_left_out(written, data, tmp_path):
    _, config, results = written
    runs = {
        setting: tuple(
            replace(run, counts={k: v for k, v in run.counts.items() if k != "reader"}) for run in of
        )
        for setting, of in results.items()
    }
    sources = with_reader(data.sources, None)
    write_paper(tmp_path, config, sources, data.test, Results(runs), {})
    text = (tmp_path / "tables" / "table1.md").read_text()
    assert "second reader" not in text
    assert "minus fully supervised" in text


def test_a_further_labeller_has_its_own_colour_and_marker(data, tmp_path, monkeypatch):
    monkeypatch.setitem(LABELLERS, "layercam", replace(LABELLERS["cam"], title="LayerCAM", colour="#009e73"))
    config = table1.get_config("smoke")
    config.grid.pseudo = ("cam", "layercam")
    drawn = []
    monkeypatch.setattr(figures.figures, "save", lambda figure, *_, **__: drawn.append(figure))
    results = finish(config, data, tmp_path)
    figures.draw_figure2(tmp_path, config, results, data.tasks, "phantom")
    lines = {line.get_label(): line for line in drawn[0].axes[0].containers}
    cam, further = (lines[title].lines[0] for title in ("CAM", "LayerCAM"))
    assert (further.get_color(), cam.get_color()) == ("#009e73", LABELLERS["cam"].colour)
    assert further.get_marker() != cam.get_marker()


@pytest.mark.parametrize("tasks", [("Nodule",), tuple(f"task {k}" for k in range(64))])
def test_tables_and_figures_hold_any_number_of_tasks(tasks, data, tmp_path):
    config = table1.get_config("smoke")
    positives = np.random.default_rng(0).integers(1, 9, (5, len(tasks)))
    counts = iou.Counts(positives // 2, positives + 3, positives)
    run = Run(0, tmp_path, {name: counts for name in ("model", "box", "reader")})
    results = Results({trial.setting: (run,) for trial in trials(config)})
    taxonomy = Taxonomy(tasks, tasks)
    sources = replace(data.sources, taxonomy=taxonomy)
    first, *_ = tables.table1(config, results, tasks)
    tables.write_tables(tmp_path, config, [first], [], results, sources)
    assert len((tmp_path / "table1.csv").read_text().splitlines()) == 1 + len(results) * (len(tasks) + 1)
    assert len(tables.compared(results, tasks, replicates=10).rows) == len(tasks) + 1
    figures.draw_figure2(tmp_path, config, results, tasks, "phantom")
    picture = figures.draw_figure5(tmp_path, results, tasks, "phantom", replicates=10)
    assert np.asarray(Image.open(picture.path)).std() > 5
