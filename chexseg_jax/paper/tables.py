"""Tables 1 and 2 and the comparisons, as Markdown, CSV and LaTeX."""

import csv
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.evaluation import bootstrap, iou
from chexseg_jax.files import written_aside
from chexseg_jax.paper.numbers import MIXTURE_COUNT, WEAK_COUNT, Number, Papers, load_papers
from chexseg_jax.paper.results import Results
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.report.tables import Table, interval, latex, number
from chexseg_jax.report.writer import to_markdown
from chexseg_jax.settings import INIT_TITLES, Setting
from chexseg_jax.sources import Sources

#: Every number of the paper's stands below or beside these words.
PAPER = "the paper, CheXpert"


def table1(
    config: ConfigDict, results: Results, tasks: Sequence[str], absent: Collection[Setting] = ()
) -> list[Table]:
    """Mean IoU over p beside the paper's, for each kind of pseudo-masks; then the IoU of each task.

    Args:
      config: of the table.
      results: of the finished runs.
      tasks: of the data.
      absent: settings that need public weights, which are not on this machine.
    """
    (init,), (count,) = config.grid.init, config.grid.count
    titles = {pseudo: LABELLERS[pseudo].title for pseudo in config.grid.pseudo}
    more, papers = more_masks(config), load_papers()
    mixtures = {f"p = 0, {more} masks": (0.0, more, "epochs")} if more else {}
    mixtures |= {f"p = {p:g}": (float(p), count, "epochs") for p in config.grid.p}
    if "steps" in config.grid.clock:
        ends = (p for p in config.grid.p if p in (0, 1))
        mixtures |= {f"p = {p:g}, equal steps": (float(p), count, "steps") for p in ends}
    rows = []
    for name, (p, many, clock) in mixtures.items():
        settings = [Setting.of(p, init, pseudo, many, clock=clock) for pseudo in titles]
        ours = (mean_cell(results, setting, config.trials, absent) for setting in settings)
        theirs = (papers.get((counterpart(config, papers, setting), "mean")) for setting in settings)
        rows.append([name, *ours, *(_iou(paper) for paper in theirs)])
    mean = Table(
        ["mixture", *titles.values(), *(f"{title} ({PAPER})" for title in titles.values())],
        rows,
        f"Table 1. Mean IoU by the probability p of an expert example; {count} pseudo-masks unless stated, "
        f"{config.trials} trials. {_paper_counts(more, count)}{_equal_steps(config)}",
    )
    by_task = []
    for pseudo, title in titles.items():
        columns = {
            name: Setting.of(p, init, pseudo, many, clock=clock)
            for name, (p, many, clock) in mixtures.items()
        }
        by_task.append(_by_task(config, results, columns, tasks, f"IoU of each pathology, {title}."))
    return [mean, *by_task]


def counterpart(config: ConfigDict, papers: Papers, setting: Setting) -> Setting:
    """The paper's model that stands beside one of ours; the paper may lack it.

    The same model; or, in Table 1, where a small data set has fewer pseudo-masks, the one with the paper's number: 100,
    and 20,000 beside the weak models with more.
    """
    if config.kind == "table2" or setting.p == 1 or (setting, "mean") in papers or setting.clock == "steps":
        return setting
    more = setting.p == 0 and setting.count not in config.grid.count
    return setting._replace(count=WEAK_COUNT if more else MIXTURE_COUNT)


def more_masks(config: ConfigDict) -> int:
    """Number of pseudo-masks of the weak models in the first row of Table 1; 0 without such a row."""
    listed = 0 in config.grid.p and config.weak_count in config.grid.count
    return 0 if listed else config.weak_count


def table2(config: ConfigDict, results: Results, absent: Collection[Setting] = ()) -> list[Table]:
    """Mean IoU by initialisation beside the paper's: expert masks alone, then pseudo-masks by their number and kind.

    Args:
      config: of the table.
      results: of the finished runs.
      absent: see `table1`.
    """
    kinds, papers = config.grid.pseudo, load_papers()
    (p,) = set(config.grid.p) - {1}

    def ours(setting: Setting) -> str:
        return mean_cell(results, setting, config.trials, absent)

    def theirs(setting: Setting) -> str:
        return _plus_minus(papers.get((setting, "mean")))

    tables = []
    if 1 in config.grid.p:
        settings = [Setting.of(1.0, init, "", 0) for init in config.grid.init]
        full = [[INIT_TITLES[setting.init], ours(setting), theirs(setting)] for setting in settings]
        title = f"Table 2, fully supervised models (p = 1; Figure 3 a). Mean IoU, {config.trials} trials. "
        title += "A dash: not in the paper's tables."
        tables.append(Table(["initialisation", "expert masks", f"expert masks ({PAPER})"], full, title))
    counts = sorted({*config.grid.count, *(s.count for s, _ in papers if s.p == p)})
    rows = []
    for init, count in itertools.product(config.grid.init, counts):
        settings = [Setting(float(p), init, pseudo, count) for pseudo in kinds]
        rows.append([INIT_TITLES[init], f"{count}", *map(ours, settings), *map(theirs, settings)])
    titles = [LABELLERS[pseudo].title for pseudo in kinds]
    header = ["initialisation", "pseudo-masks", *titles, *(f"{title} ({PAPER})" for title in titles)]
    title = (
        f"Table 2, weakly supervised models (p = {p:g}). Mean IoU, {config.trials} trials; of the paper's, ± half its "
        "95 % interval. A dash: no such model here, or in the paper."
    )
    return [*tables, Table(header, rows, title)]


def differences(
    results: Results, pairs: Mapping[str, tuple[Setting, Setting]], *, replicates: int
) -> list[Table]:
    """The mean IoU of one setting minus that of another, paired over test images and over trials; [] without a pair.

    Args:
      results: of the finished runs.
      pairs: title -> two settings; a pair with a missing run is left out.
      replicates: of the bootstrap over images.
    """
    rows = []
    for title, pair in pairs.items():
        if not all(setting in results for setting in pair):
            continue
        one, other = ({run.number: run.counts["model"] for run in results[setting]} for setting in pair)
        both = sorted(one.keys() & other.keys())
        if not both:
            continue
        ours, theirs = [one[number] for number in both], [other[number] for number in both]
        over_images = bootstrap.paired_difference(ours, theirs, replicates=replicates)
        means = (bootstrap.trial_scores(counts)[:, -1] for counts in (ours, theirs))
        base = float(bootstrap.trial_scores(theirs)[:, -1].mean())
        over_trials = bootstrap.t_interval(np.subtract(*means))
        relative = _percent(float(over_images.estimate[-1]) / base, "+") if base > 0 else "-"
        rows.append([title, f"{len(both)}", relative, _cell(over_images), interval(*map(float, over_trials))])
    header = ["mean IoU", "trials", "relative", "difference [over images]", "difference [over trials]"]
    title = "Named comparisons. Differences are of the same trials; brackets hold 95 % intervals."
    return [Table(header, rows, title)] if rows else []


def named_pairs(config: ConfigDict) -> dict[str, tuple[Setting, Setting]]:
    """Of Table 1, p = .9 against p = 1 on each clock, for each kind of pseudo-masks."""
    (init,), (count,) = config.grid.init, config.grid.count
    pairs = {}
    for pseudo, clock in itertools.product(config.grid.pseudo, config.grid.clock):
        title = (
            f"p = 0.9, {LABELLERS[pseudo].title}, minus p = 1{', equal steps' if clock == 'steps' else ''}"
        )
        full = Setting.of(1.0, init, pseudo, count, clock=clock)
        pairs[title] = Setting.of(0.9, init, pseudo, count), full
    return pairs


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
    header = ["the best models (by test mean IoU, as in the paper)", "value", "relative", PAPER]
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
    """Whether Table 1 has the paper's shape: p = 0 lowest, the greatest inside (0, 1), and above p = 1; on each clock.

    All with the same number of pseudo-masks, although the paper's p = 0 has more. A kind of pseudo-masks with missing
    runs is left out.
    """
    lines = []
    (init,), (count,) = config.grid.init, config.grid.count
    for pseudo, clock in itertools.product(config.grid.pseudo, config.grid.clock):
        settings = {p: Setting.of(p, init, pseudo, count, clock=clock) for p in config.grid.p}
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
        title = LABELLERS[pseudo].title + (", at equal steps" if clock == "steps" else "")
        lines.append(f"The paper's shape, {title}: {answered} (lowest at {low:g}, greatest at {high:g}).")
    return lines


def write_tables(
    folder: Path,
    config: ConfigDict,
    tables: Sequence[Table],
    notes: Sequence[str],
    results: Results,
    sources: Sources,
) -> None:
    """Write `NAME.md` and `NAME.tex` for people, and `NAME.csv` with one line per setting, trial and task.

    Args:
      folder: of the files.
      config: of the table; its name is that of the files.
      tables, notes: the content of the Markdown.
      results: of the finished runs.
      sources: the data; its title stands below each LaTeX table and in each line of the CSV.
    """
    with written_aside(folder / f"{config.name}.md") as file:
        file.write(to_markdown([*notes, *tables]))
    tex = [
        line for t in tables for line in (f"% {t.title}", *latex(t.header, t.rows, below=sources.title), "")
    ]
    with written_aside(folder / f"{config.name}.tex") as file:
        file.write("\n".join(tex))
    with written_aside(folder / f"{config.name}.csv") as file:
        _write_csv(file, config, results, sources)


def _write_csv(file: TextIO, config: ConfigDict, results: Results, sources: Sources) -> None:
    writer, papers = csv.writer(file, lineterminator="\n"), load_papers()
    ours = [*Setting._fields, "trial", "pathology", "pooled_iou", "per_image_iou", "data"]
    writer.writerow(
        [*ours, "paper_chexpert_pooled_iou", "paper_chexpert_ci95_half_width", "paper_chexpert_count"]
    )
    for setting, runs in results.items():
        beside = counterpart(config, papers, setting)
        for run in runs:
            counts = run.counts["model"]
            per_image = iou.mean(iou.per_image(counts), axis=0)
            scores = (bootstrap.with_mean(values) for values in (iou.pooled(counts), per_image))
            for task, *values in zip((*sources.taxonomy.tasks, "mean"), *scores, strict=True):
                numbers = ("" if np.isnan(v) else f"{v:.6f}" for v in values)
                paper = papers.get((beside, task))
                theirs = [f"{paper.iou:.3f}", _half_width(paper), beside.count] if paper else [""] * 3
                writer.writerow([*setting, run.number, task, *numbers, sources.title, *theirs])


def _cell(ends: bootstrap.Interval, k: int = -1) -> str:
    """One entry of an interval; the last is the mean over tasks."""
    return interval(*(float(end[k]) for end in ends))


def _percent(share: float, sign: str = "") -> str:
    return f"{share:{sign}.1%}".replace("%", " %")


def mean_cell(results: Results, setting: Setting, trials: int, absent: Collection[Setting]) -> str:
    """A mean IoU over trials, with their number if some are missing."""
    if setting not in results:
        return "absent" if setting in absent else "-"
    cell = _cell(results.over_trials(setting))
    return cell if (n := len(results[setting])) == trials else f"{cell} (n = {n})"


def _iou(paper: Number | None) -> str:
    return number(paper.iou if paper else None)


def _half_width(paper: Number) -> str:
    return "" if np.isnan(paper.half_width) else f"{paper.half_width:.5f}"


def _plus_minus(paper: Number | None) -> str:
    """`0.129 ± 0.00036`, with the paper's digits; a dash for None."""
    ends = _half_width(paper) if paper else ""
    return _iou(paper) + (f" ± {ends}" if ends else "")


def _paper_counts(more: int, count: int) -> str:
    """The sentence below Table 1 that says how many pseudo-masks the paper's models have."""
    beside = f"beside our {more}" if more not in (0, count) else ""
    return f"The paper's models have {MIXTURE_COUNT}{f', and {WEAK_COUNT} {beside}' if beside else ''}."


def _equal_steps(config: ConfigDict) -> str:
    """The sentence below Table 1 that says what its last rows are."""
    rule = " Equal steps: as many updates as 0 < p < 1 has; the paper has no such models."
    return rule if "steps" in config.grid.clock else ""


def _by_task(
    config: ConfigDict, results: Results, columns: Mapping[str, Setting], tasks: Sequence[str], title: str
) -> Table:
    """Two rows a task, ours and the paper's; a task that the paper does not have gets one."""
    nothing, papers = np.full(len(tasks) + 1, np.nan), load_papers()
    known = {task for _, task in papers}
    ours = [results.over_trials(s).estimate if s in results else nothing for s in columns.values()]
    rows = []
    for k, task in enumerate((*tasks, "mean")):
        name = "**mean**" if k == len(tasks) else task
        rows.append([name, *(number(float(column[k])) for column in ours)])
        if task in known:
            theirs = (papers.get((counterpart(config, papers, s), task)) for s in columns.values())
            rows.append([f"{task} ({PAPER})", *(_iou(paper) for paper in theirs)])
    foreign = "" if known.issuperset(tasks) else " Pathologies with one row are not among the paper's."
    return Table(["pathology", *columns], rows, title + foreign)
