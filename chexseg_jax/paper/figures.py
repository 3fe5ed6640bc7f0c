"""Figures 2 to 5, laid out as in the paper, each as PNG and PDF."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.evaluation import iou
from chexseg_jax.paper.results import Results, papers
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
_SHADES = ("#9ecae1", "#4292c6", "#08519c", "#08306b")
#: Some colours are pale.
_EDGE: dict[str, Any] = {"edgecolor": "#333", "linewidth": 0.6}
_MARKERS = "osDvPX"
#: Shown beside the mean in Figure 2, a large organ, a part of the lungs and a thin structure, or the next ones that the
#: test set has.
_PREFERRED = ("Cardiomegaly", "Airspace Opacity", "Support Devices")
_OVERLAY_IMAGES = 5


def draw_figure2(
    folder: Path, config: ConfigDict, results: Results, tasks: Sequence[str], title: str
) -> Picture:
    """IoU over p: the mean and three tasks, with intervals over trials."""
    (init,), (count,), more = config.grid.init, config.grid.count, more_masks(config)
    candidates = [task for task in dict.fromkeys((*_PREFERRED, *tasks)) if task in _present(results, tasks)]
    shown = {"mean IoU": -1} | {task: tasks.index(task) for task in candidates[:3]}
    figure = figures.new_figure(3.1 * len(shown), 3.5)
    axes = np.atleast_1d(figure.subplots(1, len(shown)))
    for axis, (name, k) in zip(axes, shown.items(), strict=True):
        for beside, pseudo in enumerate(config.grid.pseudo, start=1):
            labeller, marker = LABELLERS[pseudo], _MARKERS[list(LABELLERS).index(pseudo) % len(_MARKERS)]
            style: dict[str, Any] = {"color": labeller.colour, "marker": marker}
            curve = [Setting.of(p, init, pseudo, count) for p in sorted(config.grid.p)]
            _plot_intervals(axis, results, curve, k, label=labeller.title, **style)
            # With other pseudo-masks, so not part of the curve; shifted so that both points at p = 0 are visible.
            weak = [Setting.of(0.0, init, pseudo, more)]
            _plot_intervals(axis, results, weak, k, shift=-0.04 * beside, ls="", **style | {"marker": "^"})
            if k == -1:
                numbers = {s.p: miou for s, miou in papers().items() if s.pseudo in ("", pseudo)}
                style |= {"label": f"the paper (CheXpert), {labeller.title}", "mfc": "none", "alpha": 0.6}
                axis.plot(list(numbers), list(numbers.values()), ls="", ms=5, **style)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("p, probability of an expert example", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("IoU, pooled")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    drawn = any(Setting.of(0.0, init, pseudo, more) in results for pseudo in config.grid.pseudo)
    triangles = f"Triangles, beside p = 0: {more} pseudo-masks. " if drawn else ""
    caption = (
        f"IoU by the probability p of an expert example: {', '.join(('the mean', *candidates[:3]))}; {count} "
        f"pseudo-masks. {triangles}Bars: 95 % intervals over trials (Student's t). Open markers: the paper's, on "
        "CheXpert; those at p = 0 have 20000 pseudo-masks."
    )
    return _save(figure, folder, 2, title, caption)


def draw_figure3(folder: Path, config: ConfigDict, results: Results, title: str) -> Picture:
    """Mean IoU of weakly supervised models: bars by initialisation, number and kind of pseudo-masks."""
    (p,), counts, inits = config.grid.p, config.grid.count, config.grid.init
    figure = figures.new_figure(3.4 * len(config.grid.pseudo) + 1, 3.5)
    axes = np.atleast_1d(figure.subplots(1, len(config.grid.pseudo), sharey=True))
    width = 0.8 / len(counts)
    keys = {}
    for axis, pseudo in zip(axes, config.grid.pseudo, strict=True):
        for j, count in enumerate(counts):
            for i, init in enumerate(inits):
                setting = Setting(p, init, pseudo, count)
                at = i + (j - (len(counts) - 1) / 2) * width
                if setting not in results:
                    axis.text(at, 0, "none", rotation=90, ha="center", va="bottom", fontsize=6, color="#555")
                    continue
                middle, low, high = (float(end[-1]) for end in results.over_trials(setting))
                error = None if np.isnan(low) else [[middle - low], [high - middle]]
                colour = _SHADES[j % len(_SHADES)]
                bar = axis.bar(at, middle, width, yerr=error, capsize=2, color=colour, **_EDGE)
                keys[f"{count} pseudo-masks"] = bar
        axis.set_xticks(range(len(inits)), [INIT_TITLES[init] for init in inits], fontsize=8)
        axis.set_title(LABELLERS[pseudo].title, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25, axis="y")
    axes[0].set_ylabel("mean IoU, pooled")
    if keys:
        figure.legend(keys.values(), keys, loc="outside lower center", ncols=len(keys), fontsize=8)
    caption = (
        "Mean IoU of weakly supervised models by initialisation, kind and number of pseudo-masks. Bars: 95 % intervals "
        "over trials (Student's t)."
    )
    return _save(figure, folder, 3, title, caption)


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


def _plot_intervals(
    axis: "Axes", results: Results, settings: Sequence[Setting], k: int, *, shift: float = 0.0, **style: Any
) -> None:
    """Plot entry k of the finished settings over p, with intervals over trials."""
    finished = [setting for setting in settings if setting in results]
    if finished:
        ends = [[end[k] for end in results.over_trials(setting)] for setting in finished]
        middle, low, high = np.array(ends).T
        error = np.nan_to_num(np.stack([middle - low, high - middle]))
        at = [setting.p + shift for setting in finished]
        axis.errorbar(at, middle, error, ms=3.5, lw=1.4, capsize=2.5, **style)


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
