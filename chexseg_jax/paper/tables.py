"""Tables 1 and 2 and the comparisons, as Markdown, CSV and LaTeX."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.evaluation import bootstrap, iou
from chexseg_jax.files import written_aside
from chexseg_jax.paper.results import Results, papers
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.report.tables import Table, interval, latex, number
from chexseg_jax.report.writer import to_markdown
from chexseg_jax.settings import INIT_TITLES, Setting
from chexseg_jax.sources import Sources


def table1(config: ConfigDict, results: Results, tasks: Sequence[str]) -> list[Table]:
    """Mean IoU over p beside the paper's, for each kind of pseudo-masks; then the IoU of each task."""
    (init,), (count,) = config.grid.init, config.grid.count
    titles = {pseudo: LABELLERS[pseudo].title for pseudo in config.grid.pseudo}
    more = more_masks(config)
    mixtures = [(0.0, more)] * (more > 0) + [(float(p), count) for p in config.grid.p]
    names = [f"p = {p:g}{f', {many} masks' if many != count else ''}" for p, many in mixtures]
    numbers = {(s.p, s.pseudo): miou for s, miou in papers().items()}

    def paper(p: float, many: int, pseudo: str) -> str:
        # The paper's p = 0 is its best weak model, with 20,000 pseudo-masks: it stands beside our weak model with more.
        beside_more = p == 0 and many == count and more not in (0, count)
        return "" if beside_more else number(numbers.get((p, pseudo if p < 1 else "")))

    rows = [
        [
            name,
            *(_mean(results, Setting.of(p, init, pseudo, many), config.trials) for pseudo in titles),
            *(paper(p, many, pseudo) for pseudo in titles),
        ]
        for name, (p, many) in zip(names, mixtures, strict=True)
    ]
    mean = Table(
        ["mixture", *titles.values(), *(f"the paper, {title}" for title in titles.values())],
        rows,
        f"Table 1. Mean IoU by the probability p of an expert example; {count} pseudo-masks unless stated, "
        f"{config.trials} trials.",
    )
    return [mean] + [
        _by_task(results, [Setting.of(p, init, pseudo, many) for p, many in mixtures], names, tasks, title)
        for pseudo, title in titles.items()
    ]


def more_masks(config: ConfigDict) -> int:
    """Number of pseudo-masks of the weak models in the first row of Table 1; 0 without such a row."""
    listed = 0 in config.grid.p and config.weak_count in config.grid.count
    return 0 if listed else config.weak_count


def table2(config: ConfigDict, results: Results) -> list[Table]:
    """Mean IoU of weakly supervised models by initialisation, number and kind of pseudo-masks."""
    (p,), kinds = config.grid.p, config.grid.pseudo
    rows = [
        [
            INIT_TITLES[init],
            f"{count}",
            *(_mean(results, Setting(p, init, pseudo, count), config.trials) for pseudo in kinds),
        ]
        for init in config.grid.init
        for count in config.grid.count
    ]
    paper = papers()
    for setting in sorted({s._replace(pseudo="") for s in paper if s.p == p}):
        numbers = (number(paper.get(setting._replace(pseudo=pseudo))) for pseudo in kinds)
        rows.append([f"the paper, {INIT_TITLES[setting.init]}", str(setting.count), *numbers])
    header = ["initialisation", "pseudo-masks", *(LABELLERS[pseudo].title for pseudo in kinds)]
    title = f"Table 2. Mean IoU of weakly supervised models (p = {p:g}), {config.trials} trials."
    return [Table(header, rows, title)]


def comparisons(results: Results, *, replicates: int) -> list[Table]:
    """The best models against each other and the second reader, beside the paper's claims; [] without a pair."""
    semi, weak, full = results.semi, results.weak, results.full
    reader = results.yardsticks.get("reader")
    rows = []
    for other, claim in ((full, "+9.7 %"), (weak, "+73.1 %")):
        if semi and other:
            gain = bootstrap.paired_difference(
                results.counts(semi), results.counts(other), replicates=replicates
            )
            base = results.over_trials(other).estimate[-1]
            relative = _percent(gain.estimate[-1] / base, "+") if base > 0 else "-"
            rows.append([f"{semi.words}, minus {other.words}", _cell(gain), relative, claim])
    if semi and weak and reader:
        closed = bootstrap.gap_closed_interval(
            results.counts(semi), results.counts(weak), reader, replicates=replicates
        )
        name = f"share of the gap from {weak.words} to the second reader that {semi.words} closes"
        share, *ends = map(float, closed)
        relative = "" if np.isnan(share) else _percent(share)
        rows.append([name, interval(share, *ends), relative, "57.2 %"])
    header = ["the best models (by test mean IoU, as in the paper)", "value", "relative", "the paper's"]
    return [Table(header, rows, "Comparisons.")] if rows else []


def compared(results: Results, tasks: Sequence[str], *, replicates: int) -> Table:
    """Figure 5 in numbers."""
    bars = results.compared(replicates=replicates).values()
    rows = [[name, *(_cell(ends, k) for _, ends in bars)] for k, name in enumerate((*tasks, "**mean**"))]
    return Table(["pathology", *(words for words, _ in bars)], rows, "IoU of each pathology, as in Figure 5.")


def yardsticks(results: Results, *, replicates: int) -> Table:
    """Pooled mean IoU of the second reader and of centred boxes."""
    titles = {"reader": "second reader", "box": "centred box of the mean size"}
    rows = [
        [title, _cell(bootstrap.pooled_interval(results.yardsticks[name], replicates=replicates))]
        for name, title in titles.items()
        if name in results.yardsticks
    ]
    return Table(["masks by", "mean IoU"], rows, "For comparison, on the same test images.")


def shape(config: ConfigDict, results: Results) -> list[str]:
    """Whether Table 1 has the paper's shape: p = 0 lowest, the greatest inside (0, 1), and above p = 1.

    All with the same number of pseudo-masks, although the paper's p = 0 has more. A kind of pseudo-masks with missing
    runs is left out.
    """
    lines = []
    (init,), (count,) = config.grid.init, config.grid.count
    for pseudo in config.grid.pseudo:
        settings = {p: Setting.of(p, init, pseudo, count) for p in config.grid.p}
        means = {p: results.over_trials(s).estimate[-1] for p, s in settings.items() if s in results}
        if len(means) < len(settings) or not {0, 1} < set(means):
            continue
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        answers = {
            "p = 0 is the lowest": low == 0,
            "the greatest lies inside (0, 1)": 0 < high < 1,
            "it is above p = 1": means[high] > means[1],
        }
        answered = "; ".join(f"{claim}: {'yes' if holds else 'no'}" for claim, holds in answers.items())
        title = LABELLERS[pseudo].title
        lines.append(f"The paper's shape, {title}: {answered} (lowest at {low:g}, greatest at {high:g}).")
    return lines


def write_tables(
    folder: Path,
    name: str,
    tables: Sequence[Table],
    notes: Sequence[str],
    results: Results,
    sources: Sources,
) -> None:
    """Write `name.md` and `name.tex` for people, and `name.csv` with one line per setting, trial and task.

    Args:
      folder, name: of the files.
      tables, notes: the content of the Markdown.
      results: of the finished runs.
      sources: the data; its title stands below each LaTeX table and in each line of the CSV.
    """
    with written_aside(folder / f"{name}.md") as file:
        file.write(to_markdown([*notes, *tables]))
    tex = [
        line for t in tables for line in (f"% {t.title}", *latex(t.header, t.rows, below=sources.title), "")
    ]
    with written_aside(folder / f"{name}.tex") as file:
        file.write("\n".join(tex))
    with written_aside(folder / f"{name}.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Setting._fields, "trial", "pathology", "pooled_iou", "per_image_iou", "data"])
        for setting, runs in results.items():
            for run in runs:
                counts = run.counts["model"]
                per_image = iou.mean(iou.per_image(counts), axis=0)
                scores = (bootstrap.with_mean(values) for values in (iou.pooled(counts), per_image))
                for task, *values in zip((*sources.taxonomy.tasks, "mean"), *scores, strict=True):
                    numbers = ("" if np.isnan(v) else f"{v:.6f}" for v in values)
                    writer.writerow([*setting, run.number, task, *numbers, sources.title])


def _cell(ends: bootstrap.Interval, k: int = -1) -> str:
    """One entry of an interval; the last is the mean over tasks."""
    return interval(*(float(end[k]) for end in ends))


def _percent(share: float, sign: str = "") -> str:
    return f"{share:{sign}.1%}".replace("%", " %")


def _mean(results: Results, setting: Setting, trials: int) -> str:
    """A mean IoU over trials, with their number if some are missing."""
    if setting not in results:
        return "-"
    cell = _cell(results.over_trials(setting))
    return cell if (n := len(results[setting])) == trials else f"{cell} (n = {n})"


def _by_task(
    results: Results, settings: Sequence[Setting], names: Sequence[str], tasks: Sequence[str], title: str
) -> Table:
    nothing = np.full(len(tasks) + 1, np.nan)
    columns = [results.over_trials(s).estimate if s in results else nothing for s in settings]
    rows = [
        [name, *(number(float(column[k])) for column in columns)]
        for k, name in enumerate((*tasks, "**mean**"))
    ]
    return Table(["pathology", *names], rows, f"IoU of each pathology, {title}.")
