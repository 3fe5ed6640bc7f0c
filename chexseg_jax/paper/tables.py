"""Tables 1 and 2 and what is compared, as Markdown, CSV and LaTeX."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.evaluation import bootstrap, iou
from chexseg_jax.files import written_aside
from chexseg_jax.paper.results import Results, papers
from chexseg_jax.report.tables import interval, latex, markdown, number
from chexseg_jax.settings import INIT_TITLES, PSEUDO_TITLES, Setting

#: What the paper says of its best models in words: semi over full, semi over weak, the gap to radiologists.
PAPERS_CLAIMS = ("9.7 %", "73.1 %", "57.2 %")


class Table(NamedTuple):
    """A table as people read it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def table1(config: ConfigDict, results: Results) -> list[Table]:
    """Mean IoU over p for both pseudo-masks beside the paper's numbers that we have, then each pathology's IoU."""
    (init,), (count,) = config.grid.init, config.grid.count
    kinds = config.grid.pseudo
    # The paper's p = 0 is of its best weak models, which its Table 2 has with 20,000 pseudo-masks; ours has both.
    more = more_masks(config)
    columns = [(0.0, more)] if more else []
    columns += [(p, count) for p in config.grid.p]
    names = [f"p = {p:g}{f', {many} masks' if many != count else ''}" for p, many in columns]

    def settings(pseudo: str) -> list[Setting]:
        return [Setting.of(p, init, pseudo, many) for p, many in columns]

    theirs = {(s.p, s.pseudo): miou for s, miou in papers().items()}
    rows = [
        [
            name,
            *(_mean(results, Setting.of(p, init, pseudo, many), config.trials) for pseudo in kinds),
            *(
                number(theirs.get((p, pseudo if p < 1 else "")))
                if more in (0, count) or (p, many) != (0, count)
                else ""
                for pseudo in kinds
            ),
        ]
        for name, (p, many) in zip(names, columns, strict=True)
    ]
    titles = [PSEUDO_TITLES[pseudo] for pseudo in kinds]
    mean = Table(
        f"Table 1. Mean IoU by the probability p of an expert example; {count} pseudo-masks where not said otherwise, "
        f"{config.trials} trials.",
        ["mixture", *titles, *(f"the paper, {title}" for title in titles)],
        rows,
    )
    each = [
        Table(
            f"IoU of each pathology, {title}.",
            ["pathology", *names],
            _by_pathology(results, settings(pseudo)),
        )
        for title, pseudo in zip(titles, kinds, strict=True)
    ]
    return [mean, *each]


def more_masks(config: ConfigDict) -> int:
    """Pseudo-masks of Table 1's first row, weak models of more of them; 0 where there is no such row."""
    there = 0 in config.grid.p and config.weak_count in config.grid.count
    return 0 if there else config.weak_count


def table2(config: ConfigDict, results: Results) -> list[Table]:
    """Mean IoU of weakly supervised models by initialisation, pseudo-masks and their number."""
    (p,) = config.grid.p
    rows = [
        [
            INIT_TITLES[init],
            f"{count}",
            *(
                _mean(results, Setting(p, init, pseudo, count), config.trials)
                for pseudo in config.grid.pseudo
            ),
        ]
        for init in config.grid.init
        for count in config.grid.count
    ]
    paper = papers()
    for setting in sorted({s._replace(pseudo="") for s in paper if s.p == p}):
        theirs = (paper.get(setting._replace(pseudo=pseudo)) for pseudo in config.grid.pseudo)
        rows.append([f"the paper, {INIT_TITLES[setting.init]}", str(setting.count), *map(number, theirs)])
    header = ["initialisation", "pseudo-masks", *(PSEUDO_TITLES[pseudo] for pseudo in config.grid.pseudo)]
    title = f"Table 2. Mean IoU of weakly supervised models (p = {p:g}), {config.trials} trials."
    return [Table(title, header, rows)]


def comparisons(results: Results, *, replicates: int) -> Table | None:
    """The best models against each other and the second reader, beside what the paper says of its own."""
    semi, weak, full = results.semi, results.weak, results.full
    rows = []
    for other, claim in ((full, PAPERS_CLAIMS[0]), (weak, PAPERS_CLAIMS[1])):
        if semi and other:
            gain = bootstrap.paired_difference(
                results.counts(semi), results.counts(other), replicates=replicates
            )
            mean = [float(end[-1]) for end in gain]
            base = results.over_trials(other).estimate[-1]
            relative = f"{mean[0] / base:+.1%}".replace("%", " %") if base > 0 else "-"
            rows.append([f"{semi.words}, less {other.words}", interval(*mean), relative, f"+{claim}"])
    reader = results.yardsticks.get("reader") if results else None
    if semi and weak and reader:
        closed = bootstrap.gap_closed_interval(
            results.counts(semi), results.counts(weak), reader, replicates=replicates
        )
        rows.append(
            [
                f"share of the gap from {weak.words} to the second reader that {semi.words} closes",
                interval(*map(float, closed)),
                "" if np.isnan(closed.estimate) else f"{float(closed.estimate):.1%}".replace("%", " %"),
                PAPERS_CLAIMS[2],
            ]
        )
    header = [
        "the best models (by test mean IoU, as the paper picks them)",
        "value",
        "relative",
        "the paper's",
    ]
    return Table("Comparisons.", header, rows) if rows else None


def compared(results: Results, *, replicates: int) -> Table:
    """Figure 5 in numbers."""
    bars = results.compared(replicates=replicates)
    rows = [
        [name, *(interval(*(float(end[k]) for end in ends)) for _, ends in bars.values())]
        for k, name in enumerate((*TASKS, "**mean**"))
    ]
    return Table(
        "IoU of each pathology, as in Figure 5.", ["pathology", *(words for words, _ in bars.values())], rows
    )


def yardsticks(results: Results, *, replicates: int) -> Table | None:
    """Pooled mean IoU of the second reader and of centred boxes."""
    titles = {"reader": "second reader", "box": "centred box of the mean size"}
    rows = [
        [
            title,
            interval(
                *(
                    float(end[-1])
                    for end in bootstrap.pooled_interval(results.yardsticks[name], replicates=replicates)
                )
            ),
        ]
        for name, title in titles.items()
        if results and name in results.yardsticks
    ]
    return Table("For comparison, on the same test images.", ["masks by", "mean IoU"], rows) if rows else None


def shape(config: ConfigDict, results: Results) -> list[str]:
    """Whether Table 1 has the paper's shape: p = 0 lowest, the greatest inside (0, 1), and above p = 1.

    All with one number of pseudo-masks, where the paper's p = 0 has more.
    """
    lines = []
    for pseudo in config.grid.pseudo:
        (init,), (count,) = config.grid.init, config.grid.count
        settings = {p: Setting.of(p, init, pseudo, count) for p in config.grid.p}
        means = {p: results.over_trials(s).estimate[-1] for p, s in settings.items() if s in results}
        if len(means) < len(settings) or not {0, 1} < set(means):
            continue  # of runs that there are not nothing can be said
        low, high = min(means, key=means.get), max(means, key=means.get)
        answers = {
            "p = 0 is the lowest": low == 0,
            "the greatest lies inside (0, 1)": 0 < high < 1,
            "it is above p = 1": means[high] > means[1],
        }
        told = "; ".join(f"{what}: {'yes' if holds else 'no'}" for what, holds in answers.items())
        lines.append(
            f"The paper's shape, {PSEUDO_TITLES[pseudo]}: {told} (lowest at {low:g}, greatest at {high:g})."
        )
    return lines


def write_tables(
    folder: Path, name: str, tables: Sequence[Table], notes: Sequence[str], results: Results, data: str
) -> None:
    """Writes `name.md` and `name.tex` as people read them, and `name.csv`: one line a setting, trial and pathology.

    Args:
      folder, name: of the files.
      tables, notes: what they hold.
      results: of the finished runs.
      data: what the images are. It goes wherever the numbers go: below each table of LaTeX, and into each line of CSV.
    """
    text, tex = list(notes), []
    for title, header, rows in tables:
        text += ["", f"**{title}**", "", *markdown(header, rows)]
        tex += [f"% {title}", *latex(header, rows, below=data), ""]
    with written_aside(folder / f"{name}.md") as file:
        file.write("\n".join(text).strip() + "\n")
    with written_aside(folder / f"{name}.tex") as file:
        file.write("\n".join(tex))
    with written_aside(folder / f"{name}.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Setting._fields, "trial", "pathology", "pooled_iou", "per_image_iou", "data"])
        for setting, runs in results.items():
            for run in runs:
                counts = run.counts["model"]
                each = iou.mean(iou.per_image(counts), axis=0)
                scores = (bootstrap.with_mean(values) for values in (iou.pooled(counts), each))
                for task, *values in zip((*TASKS, "mean"), *scores, strict=True):
                    numbers = ("" if np.isnan(v) else f"{v:.6f}" for v in values)
                    writer.writerow([*setting, run.number, task, *numbers, data])


def _mean(results: Results, setting: Setting, trials: int) -> str:
    """A mean IoU over trials, and of how many where some are missing."""
    if setting not in results:
        return "-"
    cell = interval(*(float(end[-1]) for end in results.over_trials(setting)))
    return cell if (n := len(results[setting])) == trials else f"{cell} (n = {n})"


def _by_pathology(results: Results, settings: Sequence[Setting]) -> list[list[str]]:
    columns = [
        results.over_trials(s).estimate if s in results else np.full(len(TASKS) + 1, np.nan) for s in settings
    ]
    return [
        [name, *(number(float(column[k])) for column in columns)]
        for k, name in enumerate((*TASKS, "**mean**"))
    ]
