"""Mean IoU by the number of expert masks, with and without pseudo-masks: in the paper's style, and not in the paper."""

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.paper.figures import plot_intervals
from chexseg_jax.paper.results import Results
from chexseg_jax.paper.tables import mean_cell
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.report import figures
from chexseg_jax.report.tables import Table
from chexseg_jax.report.writer import Picture
from chexseg_jax.settings import Setting
from chexseg_jax.sources import Sources

#: Of p = 1, and of the others in their order.
_EXPERT_COLOUR, _COLOURS = "#555555", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def table(config: ConfigDict, results: Results, absent: Collection[Setting] = ()) -> Table:
    """Mean IoU, a row for each number of expert images and a column for each model."""
    columns = _curves(config)
    rows = []
    for at, number in enumerate(config.grid.experts):
        settings = (curve[at] for curve in columns.values())
        cells = (mean_cell(results, setting, config.trials, absent) for setting in settings)
        rows.append([f"{number}" if number else "all", *cells])
    title = (
        f"Label efficiency. Mean IoU by the number of expert images, those for validation included; {config.trials} "
        "trials, each with images of its own. Equal steps: as many updates as 0 < p < 1 has."
    )
    return Table(["expert images", *columns], rows, title)


def pairs(config: ConfigDict) -> dict[str, tuple[Setting, Setting]]:
    """Title -> a model with pseudo-masks and one without, on each clock and for each number of expert images."""
    curves = _curves(config)
    mixed = {title: curve for title, curve in curves.items() if curve[0].p < 1}
    full = {title: curve for title, curve in curves.items() if curve[0].p == 1}
    found = {}
    for (ours, curve), (theirs, other) in itertools.product(mixed.items(), full.items()):
        for one, two in zip(curve, other, strict=True):
            found[f"{one.experts or 'all'} expert images: {ours}, minus {theirs}"] = one, two
    return found


def draw(folder: Path, config: ConfigDict, results: Results, sources: Sources) -> Picture:
    """Draw the table as curves over the number of expert images, as PNG and PDF."""
    studies, masks = sources.valid.studies, sources.valid.segmentations or ()
    views = {"frontal": studies.frontal, "lateral": ~studies.frontal}
    used = studies.take(views.get(config.data.views, np.ones(len(studies), bool)))
    everything = sum(image_id in masks for image_id in used.ids)
    figure = figures.new_figure(5.6, 4.2)
    axis = figure.subplots()
    for title, curve in _curves(config).items():
        places = {float(setting.experts or everything): setting for setting in curve}
        style = _style(curve[0], below=[p for p in config.grid.p if p < 1])
        plot_intervals(axis, results, places, label=title, ms=4, **style)
    axis.set_xscale("log")
    ticks = sorted({number or everything for number in config.grid.experts})
    axis.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("images with expert masks", fontsize=9)
    axis.set_ylabel("mean IoU, pooled")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, loc="upper left")
    figure.suptitle(f"Label efficiency. {sources.title}", fontsize=9)
    for suffix in ("png", "pdf"):
        figures.save(figure, folder / f"label_efficiency.{suffix}", dpi=140)
    caption = "Label efficiency. Mean IoU by the number of expert images. Bars: 95 % intervals over trials."
    return Picture(folder / "label_efficiency.png", "Label efficiency, described below", caption)


def _style(setting: Setting, below: Sequence[float]) -> dict[str, Any]:
    """Colour and marker by p, of those `below` 1; dashes and open markers for equal steps."""
    if setting.p == 1:
        colour, marker = _EXPERT_COLOUR, "s"
    else:
        colour, marker = _COLOURS[below.index(setting.p) % len(_COLOURS)], "o"
    clock = {"ls": "--", "mfc": "white"} if setting.clock == "steps" else {"ls": "-"}
    return {"color": colour, "marker": marker, **clock}


def _curves(config: ConfigDict) -> dict[str, list[Setting]]:
    """Title -> the settings of a curve, by the number of expert images."""
    (init,), (pseudo,), (count,) = config.grid.init, config.grid.pseudo, config.grid.count
    curves: dict[str, list[Setting]] = {}
    for p, clock in itertools.product(config.grid.p, config.grid.clock):
        curve = [Setting.of(p, init, pseudo, count, number, clock) for number in config.grid.experts]
        masks = f", {count} {LABELLERS[pseudo].title} masks" if p < 1 else ""
        steps = ", equal steps" if curve[0].clock == "steps" else ""
        curves[f"p = {p:g}{masks}{steps}"] = curve
    return curves
