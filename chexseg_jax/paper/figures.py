"""Figures 2 to 5, laid out as in the paper, each as PNG and PDF. Each function returns what stands below its figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.evaluation import iou
from chexseg_jax.paper.gallery import TRUTH, Gallery
from chexseg_jax.paper.results import Results, papers
from chexseg_jax.paper.tables import more_masks
from chexseg_jax.report import figures
from chexseg_jax.settings import INIT_TITLES, PSEUDO_TITLES, Setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Told apart by the colour-blind, and in print by their lightness.
_COLOURS = {"cam": "#0072b2", "irnet": "#d55e00", "reader": "#3b3b3b", "semi": "#0072b2", "weak": "#e69f00"}
#: Around bars: some of the colours are pale.
_EDGE = {"edgecolor": "#333", "linewidth": 0.6}
#: Beside the mean: one of the large organs, one of the lungs, one thin; absent ones are passed over for the next.
_SHOWN_TASKS = ("Cardiomegaly", "Airspace Opacity", "Support Devices", *TASKS)
_SHOWN_IMAGES = 5


def draw_figure2(folder: Path, config: ConfigDict, results: Results, title: str) -> str:
    """IoU over p: the mean and three pathologies, with intervals over trials."""
    (init,), (count,), more = config.grid.init, config.grid.count, more_masks(config)
    present = _present(results)
    tasks = list(dict.fromkeys(task for task in _SHOWN_TASKS if present[TASKS.index(task)]))[:3]
    figure = figures.new_figure(3.1 * (1 + len(tasks)), 3.5)
    axes = figure.subplots(1, 1 + len(tasks))
    for axis, name, k in zip(
        np.atleast_1d(axes), ("mean IoU", *tasks), (len(TASKS), *map(TASKS.index, tasks)), strict=True
    ):
        for beside, pseudo in enumerate(config.grid.pseudo, start=1):
            settings = [Setting.of(p, init, pseudo, count) for p in sorted(config.grid.p)]
            there = [s for s in settings if s in results]
            many = Setting.of(0.0, init, pseudo, more)
            for points, shift, style in (
                (there, 0, {"marker": "o" if pseudo == "cam" else "s", "label": PSEUDO_TITLES[pseudo]}),
                # Of other pseudo-sets, so not on the curve: left of its first point, where both can be seen.
                ([many] if many in results else [], -0.04 * beside, {"marker": "^", "ls": ""}),
            ):
                if points:
                    ends = [[end[k] for end in results.over_trials(s)] for s in points]
                    middle, low, high = np.array(ends).T
                    bars = np.nan_to_num(np.stack([middle - low, high - middle]))
                    axis.errorbar(
                        [s.p + shift for s in points],
                        middle,
                        bars,
                        color=_COLOURS[pseudo],
                        ms=3.5,
                        lw=1.4,
                        capsize=2.5,
                        **style,
                    )
            if k == len(TASKS):
                theirs = {s.p: miou for s, miou in papers().items() if s.pseudo in ("", pseudo)}
                axis.plot(
                    list(theirs),
                    list(theirs.values()),
                    ls="",
                    marker="o" if pseudo == "cam" else "s",
                    ms=5,
                    mfc="none",
                    color=_COLOURS[pseudo],
                    alpha=0.6,
                    label=f"the paper (CheXpert), {PSEUDO_TITLES[pseudo]}",
                )
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("p, probability of an expert example", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    np.atleast_1d(axes)[0].set_ylabel("IoU, pooled")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    _save(figure, folder, "fig2", title)
    drawn = any(Setting.of(0.0, init, pseudo, more) in results for pseudo in config.grid.pseudo)
    triangles = f"Triangles, beside p = 0: {more} pseudo-masks. " if drawn else ""
    return (
        f"IoU by the probability p of an expert example: {', '.join(('the mean', *tasks))}; {count} pseudo-masks. "
        f"{triangles}Bars: 95 % intervals over trials (Student's t). Open markers: the paper's, on CheXpert; those at "
        "p = 0 have 20000 pseudo-masks."
    )


def draw_figure3(folder: Path, config: ConfigDict, results: Results, title: str) -> str:
    """Bars of the weakly supervised models' mean IoU: by initialisation, number and kind of pseudo-masks."""
    (p,) = config.grid.p
    figure = figures.new_figure(3.4 * len(config.grid.pseudo) + 1, 3.5)
    axes = np.atleast_1d(figure.subplots(1, len(config.grid.pseudo), sharey=True))
    shades = ("#9ecae1", "#4292c6", "#08519c", "#08306b")
    width = 0.8 / len(config.grid.count)
    keys = {}
    for axis, pseudo in zip(axes, config.grid.pseudo, strict=True):
        for j, count in enumerate(config.grid.count):
            for i, init in enumerate(config.grid.init):
                setting = Setting(p, init, pseudo, count)
                at = i + (j - (len(config.grid.count) - 1) / 2) * width
                if setting not in results:
                    axis.text(at, 0, "none", rotation=90, ha="center", va="bottom", fontsize=6, color="#555")
                    continue
                middle, low, high = (float(end[-1]) for end in results.over_trials(setting))
                bars = None if np.isnan(low) else [[middle - low], [high - middle]]
                keys[f"{count} pseudo-masks"] = axis.bar(
                    at, middle, width, yerr=bars, capsize=2, color=shades[j % len(shades)], **_EDGE
                )
        axis.set_xticks(
            range(len(config.grid.init)), [INIT_TITLES[init] for init in config.grid.init], fontsize=8
        )
        axis.set_title(PSEUDO_TITLES[pseudo], fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25, axis="y")
    axes[0].set_ylabel("mean IoU, pooled")
    if keys:
        figure.legend(keys.values(), keys, loc="outside lower center", ncols=len(keys), fontsize=8)
    _save(figure, folder, "fig3", title)
    return (
        "Mean IoU of weakly supervised models by initialisation, kind and number of pseudo-masks. Bars: 95 % intervals "
        "over trials (Student's t)."
    )


def draw_figure4(folder: Path, gallery: Gallery, title: str) -> str:
    """Test images with the most to see: ground truth, the best semi- and the best weakly supervised model."""
    rows = gallery.fullest(_SHOWN_IMAGES)
    names = [gallery.ids[row] for row in rows]
    images = [gallery.image(row) for row in rows]
    shown = [
        source for source in gallery.sources if source in (TRUTH, "semi-supervised", "weakly supervised")
    ]
    columns = [(source, [gallery.masks(source, row) for row in rows]) for source in shown]
    for suffix in ("png", "pdf"):
        figures.draw_overlays(folder / f"fig4.{suffix}", images, names, columns, title=f"Figure 4. {title}")
    return f"Test images with many pathologies. {' '.join(gallery.told(source) for source in shown)}"


def draw_figure5(folder: Path, results: Results, title: str, *, replicates: int) -> str:
    """Per pathology: the second reader, best semi- and best weakly supervised model; intervals over images."""
    bars = results.compared(replicates=replicates)
    shown = [*np.flatnonzero(_present(results)), len(TASKS)]
    figure = figures.new_figure(10, 4.6)
    axis = figure.subplots()
    width = 0.8 / max(len(bars), 1)
    for j, (role, (words, ends)) in enumerate(bars.items()):
        middle, low, high = (np.asarray(end)[shown] for end in ends)
        error = np.nan_to_num(np.stack([middle - low, high - middle])).clip(0)
        at = np.arange(len(shown)) + (j - (len(bars) - 1) / 2) * width
        axis.bar(
            at,
            middle,
            width,
            yerr=error,
            capsize=2,
            color=_COLOURS[role],
            label=words,
            ecolor="#999",
            **_EDGE,
        )
    axis.set_xticks(
        range(len(shown)), [(*TASKS, "mean")[k] for k in shown], rotation=28, ha="right", fontsize=8
    )
    axis.set_ylabel("IoU, pooled")
    axis.grid(alpha=0.25, axis="y")
    figure.legend(loc="outside lower center", fontsize=8)
    _save(figure, folder, "fig5", title)
    return (
        f"IoU of each pathology: {'; '.join(words for words, _ in bars.values())}. Bars: 95 % intervals over "
        "test images (bootstrap)."
    )


def _present(results: Results) -> Sequence[bool]:
    """Which tasks have a positive test mask."""
    return ~np.isnan(iou.pooled(next(iter(results.yardsticks.values()))))


def _save(figure: "Figure", folder: Path, name: str, title: str) -> None:
    figure.suptitle(f"Figure {name[-1]}. {title}", fontsize=9)
    for suffix in ("png", "pdf"):
        figures.save(figure, folder / f"{name}.{suffix}", dpi=140)
