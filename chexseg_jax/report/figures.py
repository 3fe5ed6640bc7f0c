"""What people look at: overlays of masks on radiographs, and training curves, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, UInt8

from chexseg_jax.data.taxonomy import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: One colour a task, the same in every figure; told apart by most colour-blind readers on grey.
COLOURS: Mapping[str, str] = dict(
    zip(
        TASKS,
        (
            "#e6c229",
            "#4cc9f0",
            "#f72585",
            "#80ed99",
            "#f4a261",
            "#b388eb",
            "#ff4d4d",
            "#4895ef",
            "#00f5d4",
            "#ffffff",
        ),
        strict=True,
    )
)

#: A column of overlays: its title, and [H,W,10] masks for each row (None: nothing is known there).
Column = tuple[str, Sequence[Bool[np.ndarray, "H W 10"] | None]]


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches. Matplotlib is imported with the first: no training's start waits for it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: "Figure", path: Path, *, dpi: int = 110) -> None:
    """Writes PNG or PDF, as the path ends; the same figure gives the same bytes (a PDF's date is left out)."""
    figure.savefig(path, dpi=dpi, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)


def draw_overlays(
    path: Path,
    images: Sequence[UInt8[np.ndarray, "H W"]],
    names: Sequence[str],
    columns: Sequence[Column],
    *,
    title: str,
) -> None:
    """One row an image: the radiograph alone, then with each column's masks outlined and tinted.

    Args:
      path: the PNG to write.
      images: grey radiographs.
      names: of the rows.
      columns: see `Column`.
      title: says what the images are; a phantom is called one here.
    """
    rows, width = len(images), len(columns) + 1
    figure = new_figure(2.6 * width, 2.75 * rows + 1.1)
    axes = _radiographs(figure, images, names, width)
    seen: set[int] = set()
    for row in range(rows):
        for axis, (_, masks) in zip(axes[row][1:], columns, strict=True):
            if masks[row] is None:
                axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color="white")
            else:
                seen |= draw_masks(axis, masks[row])
    for axis, heading in zip(axes[0], ("radiograph", *(heading for heading, _ in columns)), strict=True):
        axis.set_title(heading, fontsize=9)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=COLOURS[TASKS[k]], lw=3, label=TASKS[k]) for k in sorted(seen)]
    if handles:
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=5, fontsize=8, facecolor="#404040"
        )
        for text in legend.get_texts():
            text.set_color("white")
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def draw_saliency(
    path: Path,
    images: Sequence[UInt8[np.ndarray, "H W"]],
    names: Sequence[str],
    columns: Sequence[tuple[str, Sequence[Float[np.ndarray, "h w"]]]],
    masks: Sequence[Bool[np.ndarray, "H W 10"]],
    *,
    title: str,
) -> None:
    """One row an image: the radiograph, it under each map in colours, and the mask made from them.

    Args:
      path: the PNG to write.
      images: grey radiographs.
      names: of the rows.
      columns: title, and a map in [0, 1] of any size for each row.
      masks: what came out.
      title: says what the images are.
    """
    rows, width = len(images), len(columns) + 2
    figure = new_figure(2.6 * width, 2.75 * rows + 0.5)
    axes = _radiographs(figure, images, names, width)
    for row, image in enumerate(images):
        height, breadth = image.shape
        for axis, (_, maps) in zip(axes[row][1:-1], columns, strict=True):
            axis.imshow(
                maps[row],
                cmap="inferno",
                vmin=0,
                vmax=1,
                alpha=0.65,
                extent=(-0.5, breadth - 0.5, height - 0.5, -0.5),
            )
        draw_masks(axes[row][-1], masks[row])
    for axis, heading in zip(axes[0], ("radiograph", *(name for name, _ in columns), "mask"), strict=True):
        axis.set_title(heading, fontsize=9)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def _radiographs(
    figure: "Figure", images: Sequence[UInt8[np.ndarray, "H W"]], names: Sequence[str], width: int
) -> np.ndarray:
    """Axes [rows, width] without ticks, each row's radiograph in all of them, its name at the left."""
    axes = figure.subplots(len(images), width, squeeze=False)
    for row, image, name in zip(axes, images, names, strict=True):
        for axis in row:
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=7)
    return axes


def draw_masks(axis: "Axes", masks: Bool[np.ndarray, "H W 10"]) -> set[int]:
    """Draws an image's masks on an axis that shows it; returns the tasks drawn, as indices into `TASKS`."""
    shown = set(map(int, np.flatnonzero(masks.any((0, 1)))))
    for k in sorted(shown, key=lambda k: -masks[..., k].sum()):  # small masks on top
        colour = COLOURS[TASKS[k]]
        mask = masks[..., k].astype(float)
        axis.contourf(mask, levels=[0.5, 1.5], colors=[colour], alpha=0.18)
        axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.1)
    return shown


def draw_curves(path: Path, metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Training curves, one row a training: the loss, and what the evaluation measured.

    Args:
      path: the PNG to write.
      metrics: training's name -> its lines as `metrics_log.read_metrics` gives them.
    """
    figure = new_figure(9, 2.6 * len(metrics))
    axes = figure.subplots(len(metrics), 2, squeeze=False)
    for (loss_axis, score_axis), (name, lines) in zip(axes, metrics.items(), strict=True):
        keys = sorted({key for line in lines for key in line} - {"step"})
        for key in keys:
            points = [(line["step"], line[key]) for line in lines if key in line]
            axis = loss_axis if key == "loss" else score_axis
            marker = "" if key == "loss" and len(points) > 1 else "o"  # a point alone is no line
            axis.plot(*zip(*points, strict=True), marker=marker, lw=1.4, label=key)
        loss_axis.set_ylabel("training loss")
        loss_axis.set_title(name, fontsize=10, loc="left")
        # What an evaluation measures has lines of its own; what comes with the loss is of its batch.
        judged = any("loss" not in line for line in lines)
        where = "validation images" if judged else "training batches"
        score_axis.set_title(f"on the {where}", fontsize=10, loc="left")
        score_axis.legend(fontsize=8)
        for axis in (loss_axis, score_axis):
            axis.set_xlabel("step")
            axis.grid(alpha=0.25)
    save(figure, path)
