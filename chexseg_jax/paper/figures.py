"""Figures 2 to 5, laid out as in the paper, each as PNG and PDF."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.evaluation import iou
from chexseg_jax.paper.numbers import MIXTURE_COUNT, WEAK_COUNT, Papers, load_papers
from chexseg_jax.paper.results import Results
from chexseg_jax.paper.tables import more_masks
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.report import figures
from chexseg_jax.report.gallery import READER, Gallery
from chexseg_jax.report.writer import Picture
from chexseg_jax.settings import INIT_TITLES, Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR_COLOURS = {"reader": "#3b3b3b", "semi": "#0072b2", "weak": "#e69f00"}
_EXPERT_COLOUR = "#b0b0b0"
_SHADES = ("#9ecae1", "#4292c6", "#08519c", "#08306b")
#: Some colours are pale.
_EDGE: dict[str, Any] = {"edgecolor": "#333", "linewidth": 0.6}
_MARKERS = "osDvPX"
#: The paper's numbers among bars.
_PAPER_STYLE: dict[str, Any] = {
    "color": "black",
    "mfc": "white",
    "ms": 4.5,
    "mew": 0.9,
    "lw": 0.9,
    "zorder": 3,
}
#: Shown beside the mean in Figure 2, a large organ, a part of the lungs and a thin structure, or the next ones that the
#: test set has.
_PREFERRED = ("Cardiomegaly", "Airspace Opacity", "Support Devices")
_OVERLAY_IMAGES = 5


def draw_figure2(
    folder: Path, config: ConfigDict, results: Results, tasks: Sequence[str], title: str
) -> Picture:
    """IoU over p: the mean and three tasks, with intervals over trials, beside the paper's."""
    (init,), (count,), more = config.grid.init, config.grid.count, more_masks(config)
    candidates = [task for task in dict.fromkeys((*_PREFERRED, *tasks)) if task in _present(results, tasks)]
    shown = {"mean": -1} | {task: tasks.index(task) for task in candidates[:3]}
    figure = figures.new_figure(3.1 * len(shown), 3.5)
    axes = np.atleast_1d(figure.subplots(1, len(shown)))
    papers = load_papers()
    for axis, (name, k) in zip(axes, shown.items(), strict=True):
        for beside, pseudo in enumerate(config.grid.pseudo, start=1):
            labeller, marker = LABELLERS[pseudo], _MARKERS[list(LABELLERS).index(pseudo) % len(_MARKERS)]
            style: dict[str, Any] = {"color": labeller.colour, "marker": marker}
            curve = {p: Setting.of(p, init, pseudo, count) for p in sorted(config.grid.p)}
            plot_intervals(axis, results, curve, k, label=labeller.title, **style)
            if "steps" in config.grid.clock:
                equal = {p: Setting.of(p, init, pseudo, count, clock="steps") for p in curve}
                dashed = style | {"ls": "--", "lw": 0.9, "marker": "", "alpha": 0.7}
                plot_intervals(axis, results, equal, k, label=f"{labeller.title}, equal steps", **dashed)
            # With other pseudo-masks, so not part of the curve; shifted so that both points at p = 0 are visible.
            shift = -0.04 * beside
            weak = {shift: Setting.of(0.0, init, pseudo, more)}
            plot_intervals(axis, results, weak, k, ls="", **style | {"marker": "^"})
            _plot_papers(axis, papers, name, init, pseudo, shift=shift, **style)
        axis.set_title("mean IoU" if k == -1 else name, fontsize=9)
        axis.set_xlabel("p, probability of an expert example", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("IoU, pooled")
    handles, labels = axes[0].get_legend_handles_labels()
    _draw_legend(figure, dict(zip(labels, handles, strict=True)), ncols=4)
    drawn = any(Setting.of(0.0, init, pseudo, more) in results for pseudo in config.grid.pseudo)
    triangles = f"Filled triangles, beside p = 0: {more} pseudo-masks. " if drawn else ""
    dashes = "Dashed: all p with as many steps. " if "steps" in config.grid.clock else ""
    caption = (
        f"IoU by the probability p of an expert example: {', '.join(('the mean', *candidates[:3]))}; {count} "
        f"pseudo-masks. {triangles}{dashes}Bars: 95 % intervals over trials (Student's t). Open markers: the paper's, "
        f"on CheXpert, with {MIXTURE_COUNT} pseudo-masks; open triangles: with {WEAK_COUNT}."
    )
    return _save(figure, folder, 2, title, caption)


def draw_figure3(
    folder: Path, config: ConfigDict, results: Results, title: str, absent: Collection[Setting] = ()
) -> Picture:
    """Mean IoU by initialisation beside the paper's: expert masks alone, then pseudo-masks by their number and kind.

    `absent` are the settings that need public weights, which are not on this machine.
    """
    papers, inits = load_papers(), config.grid.init
    (p,) = set(config.grid.p) - {1}
    counts = sorted({*config.grid.count, *(s.count for s, _ in papers if s.p == p)})
    panels: dict[str, dict[int, list[Setting]]] = {}
    if 1 in config.grid.p:
        panels["expert masks (p = 1)"] = {0: [Setting.of(1.0, init, "", 0) for init in inits]}
    for pseudo in config.grid.pseudo:
        bars = {count: [Setting(float(p), init, pseudo, count) for init in inits] for count in counts}
        panels[f"{LABELLERS[pseudo].title} (p = {p:g})"] = bars
    figure = figures.new_figure(3.4 * len(panels) + 1, 3.8)
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    weak = axes[len(panels) - len(config.grid.pseudo) :]
    for axis in weak[1:]:
        axis.sharey(weak[0])
        axis.tick_params(labelleft=False)
    keys: dict[str, Any] = {}
    for letter, axis, (heading, settings) in zip(ascii_lowercase, axes, panels.items(), strict=False):
        keys |= _draw_bars(axis, config, results, papers, settings, absent)
        axis.set_xticks(range(len(inits)), [INIT_TITLES[init] for init in inits], fontsize=8)
        axis.set_title(f"({letter}) {heading}", fontsize=9)
        axis.grid(alpha=0.25, axis="y")
    for axis in dict.fromkeys(
        (axes[0], weak[0])
    ):  # after the last panel is drawn: this ends the automatic scale
        axis.set_ylim(bottom=0)
        axis.set_ylabel("mean IoU, pooled")
    _draw_legend(figure, keys, ncols=4)
    caption = (
        "Mean IoU by initialisation: fully supervised models, and weakly supervised ones by kind and number of "
        "pseudo-masks (on a scale of their own). Bars: 95 % intervals over trials (Student's t). Open markers: the "
        "paper's, on CheXpert, with its 95 % intervals."
    )
    return _save(figure, folder, 3, title, caption)


def _draw_bars(
    axis: "Axes",
    config: ConfigDict,
    results: Results,
    papers: Papers,
    settings: Mapping[int, Sequence[Setting]],
    absent: Collection[Setting],
) -> dict[str, Any]:
    """Draw groups of bars, ours, with the paper's as open markers; return the legend's entries.

    Args:
      axis: to draw on.
      config: of the table.
      results, papers: ours and the paper's.
      settings: number of pseudo-masks -> a bar for each group; a number that only the paper has leaves its place empty.
      absent: see `draw_figure3`.
    """
    width = 0.8 / max(len(settings), 2)
    theirs = [count for count, bars in settings.items() if any((s, "mean") in papers for s in bars)]
    colours = {0: _EXPERT_COLOUR} | dict(zip(config.grid.count, itertools.cycle(_SHADES), strict=False))
    keys: dict[str, Any] = {}
    for j, (count, bars) in enumerate(settings.items()):
        masks = f"{count} pseudo-masks" if count else "expert masks"
        for i, setting in enumerate(bars):
            at = i + (j - (len(settings) - 1) / 2) * width
            if setting in results:
                middle, low, high = (float(end[-1]) for end in results.over_trials(setting))
                error = None if np.isnan(low) else [[middle - low], [high - middle]]
                bar = axis.bar(at, middle, width, yerr=error, capsize=2, color=colours[count], **_EDGE)
                keys[masks] = bar
            elif count in colours:
                style: dict[str, Any] = {
                    "rotation": 90,
                    "ha": "center",
                    "va": "bottom",
                    "fontsize": 6,
                    "color": "#555",
                }
                axis.text(at, 0, " absent" if setting in absent else " none", **style)
            if paper := papers.get((setting, "mean")):
                marker = _MARKERS[theirs.index(count) % len(_MARKERS)] if count else "^"
                at += 0.28 * width if setting in results else 0  # beside our interval
                half = np.nan_to_num(paper.half_width)
                handle = axis.errorbar(at, paper.iou, half, ls="", marker=marker, **_PAPER_STYLE)
                keys[f"paper (CheXpert), {masks}"] = handle
    return keys


def _draw_legend(figure: "Figure", keys: Mapping[str, Any], *, ncols: int) -> None:
    """Draw a legend below the figure, ours before the paper's."""
    labels = sorted(keys, key=lambda label: label.startswith("paper"))
    handles = [keys[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, fontsize=8)


def draw_figure4(folder: Path, gallery: Gallery, title: str) -> Picture:
    """Test images with many masks: ground truth, the best semi- and the best weakly supervised model."""
    test, rows = gallery.prepared, gallery.fullest(_OVERLAY_IMAGES)
    sources = [source for source in gallery.sources if source not in ("fully supervised", READER)]
    names, images = [test.ids[row] for row in rows], [test.images[row] for row in rows]
    columns = gallery.columns(sources, rows)
    for suffix in ("png", "pdf"):
        path = folder / f"fig4.{suffix}"
        figures.draw_overlays(
            path, images, names, columns, taxonomy=test.taxonomy, title=f"Figure 4. {title}"
        )
    described = " ".join(map(gallery.describe, sources))
    return _picture(folder, 4, f"Test images with many pathologies. {described}")


def draw_figure5(
    folder: Path, results: Results, tasks: Sequence[str], title: str, *, replicates: int
) -> Picture:
    """IoU by task of the second reader, the best semi- and the best weakly supervised model."""
    bars = results.compared(replicates=replicates)
    names = [*_present(results, tasks), "mean"]
    shown = [(*tasks, "mean").index(name) for name in names]
    figure = figures.new_figure(10.0, 4.6)
    axis = figure.subplots()
    width = 0.8 / max(len(bars), 1)
    for j, (role, (words, ends)) in enumerate(bars.items()):
        middle, low, high = (end[shown] for end in ends)
        error = np.nan_to_num(np.stack([middle - low, high - middle])).clip(0)
        at = np.arange(len(shown)) + (j - (len(bars) - 1) / 2) * width
        style = {"color": _BAR_COLOURS[role], "label": words, "ecolor": "#999", **_EDGE}
        axis.bar(at, middle, width, yerr=error, capsize=2, **style)
    axis.set_xticks(range(len(names)), names, rotation=28, ha="right", fontsize=8)
    axis.set_ylabel("IoU, pooled")
    axis.grid(alpha=0.25, axis="y")
    figure.legend(loc="outside lower center", fontsize=8)
    caption = (
        f"IoU of each pathology: {'; '.join(words for words, _ in bars.values())}. Bars: 95 % intervals over test "
        "images (bootstrap)."
    )
    return _save(figure, folder, 5, title, caption)


def plot_intervals(
    axis: "Axes", results: Results, settings: Mapping[float, Setting], k: int = -1, **style: Any
) -> None:
    """Plot entry k of the finished settings, each at its place, with intervals over trials."""
    finished = {at: setting for at, setting in settings.items() if setting in results}
    if finished:
        ends = [[end[k] for end in results.over_trials(setting)] for setting in finished.values()]
        middle, low, high = np.array(ends).T
        error = np.nan_to_num(np.stack([middle - low, high - middle]))
        axis.errorbar([*finished], middle, error, **{"ms": 3.5, "lw": 1.4, "capsize": 2.5} | style)


def _plot_papers(
    axis: "Axes", papers: Papers, task: str, init: str, pseudo: str, *, shift: float, **style: Any
) -> None:
    """Plot the paper's IoU over p as open markers, and that of its weak model with more pseudo-masks as a triangle."""
    curve = {
        setting.p: paper.iou
        for (setting, name), paper in papers.items()
        if name == task and setting == Setting.of(setting.p, init, pseudo, MIXTURE_COUNT)
    }
    style |= {"ls": "", "mfc": "none", "ms": 5, "mew": 0.9, "alpha": 0.75}
    label = f"paper (CheXpert), {LABELLERS[pseudo].title}"
    axis.plot([*curve], [*curve.values()], label=label if curve else None, **style)
    if weak := papers.get((Setting(0.0, init, pseudo, WEAK_COUNT), task)):
        axis.plot(shift, weak.iou, **style | {"marker": "^"})


def _present(results: Results, tasks: Sequence[str]) -> list[str]:
    """The tasks with a positive test mask."""
    scores = iou.pooled(next(iter(results.yardsticks.values())))
    return [task for task, score in zip(tasks, scores, strict=True) if not np.isnan(score)]


def _save(figure: "Figure", folder: Path, number: int, title: str, caption: str) -> Picture:
    figure.suptitle(f"Figure {number}. {title}", fontsize=9)
    for suffix in ("png", "pdf"):
        figures.save(figure, folder / f"fig{number}.{suffix}", dpi=140)
    return _picture(folder, number, caption)


def _picture(folder: Path, number: int, caption: str) -> Picture:
    name = f"Figure {number}"
    return Picture(folder / f"fig{number}.png", f"{name}, described below", f"{name}. {caption}")
