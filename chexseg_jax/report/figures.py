"""Masks and saliency maps over radiographs, and training curves, as PNG or PDF."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from chexseg_jax.data.taxonomy import Taxonomy

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: A column of overlays: its title, and the masks of each row (None: the row has none in this column).
Column = tuple[str, Sequence[Bool[np.ndarray, "H W K"] | None]]


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # takes half a second, which no training should wait for

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def save(figure: "Figure", path: Path, *, dpi: int = 110) -> None:
    """Write a PNG or PDF, by the path's suffix; the same figure gives the same bytes (PDFs carry no date)."""
    _draw_verbatim(figure)
    figure.savefig(path, dpi=dpi, metadata={"CreationDate": None} if path.suffix == ".pdf" else None)


def draw_overlays(
    path: Path,
    images: Sequence[UInt8[np.ndarray, "H W"]],
    names: Sequence[str],
    columns: Sequence[Column],
    *,
    taxonomy: Taxonomy,
    title: str,
) -> None:
    """Draw one row per image: the radiograph alone, then with the masks of each column outlined and tinted.

    Args:
      path: the file to write.
      images: grey radiographs.
      names: of the rows.
      columns: see `Column`.
      taxonomy: names and colours of the tasks.
      title: says what the images are; a phantom is called one here.
    """
    masks = [mask for _, column in columns for mask in column if mask is not None]
    drawn = [k for k in range(len(taxonomy.tasks)) if any(mask[..., k].any() for mask in masks)]
    figure = new_figure(2.6 * (len(columns) + 1), 2.75 * len(images) + 1.1)
    axes = _radiographs(figure, images, names, ("radiograph", *(heading for heading, _ in columns)))
    for row, beside in enumerate(axes[:, 1:]):
        for axis, (_, column) in zip(beside, columns, strict=True):
            if (mask := column[row]) is None:
                box = {"facecolor": "#404040", "edgecolor": "none"}
                axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color="white", bbox=box)
            else:
                draw_masks(axis, mask, taxonomy.colours)
    _draw_legend(figure, {taxonomy.tasks[k]: taxonomy.colours[k] for k in drawn})
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def draw_saliency(
    path: Path,
    images: Sequence[UInt8[np.ndarray, "H W"]],
    names: Sequence[str],
    columns: Sequence[tuple[str, Sequence[Float[np.ndarray, "..."]]]],
    masks: Sequence[Bool[np.ndarray, "H W K"]],
    *,
    taxonomy: Taxonomy,
    title: str,
) -> None:
    """Draw one row per image: the radiograph, each map over it in colours, and the mask made from the maps.

    Args:
      path: the file to write.
      images: grey radiographs.
      names: of the rows.
      columns: title, and a map [h, w] in [0, 1] of any size for each row.
      masks: of the rows.
      taxonomy: colours of the tasks.
      title: says what the images are.
    """
    headings = ("radiograph", *(heading for heading, _ in columns), "mask")
    figure = new_figure(2.6 * len(headings), 2.75 * len(images) + 0.5)
    axes = _radiographs(figure, images, names, headings)
    for row, image in enumerate(images):
        height, width = image.shape
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        for axis, (_, maps) in zip(axes[row][1:-1], columns, strict=True):
            axis.imshow(maps[row], cmap="inferno", vmin=0, vmax=1, alpha=0.65, extent=extent)
        draw_masks(axes[row][-1], masks[row], taxonomy.colours)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def draw_masks(axis: "Axes", masks: Bool[np.ndarray, "H W K"], colours: Sequence[str]) -> set[int]:
    """Draw an image's masks on an axis that shows it, in the tasks' colours; return the indices of the tasks drawn."""
    if min(masks.shape[:2]) < 2:  # matplotlib has no contour of a single row or column
        return set()
    areas = {int(k): masks[..., k].sum() for k in np.flatnonzero(masks.any((0, 1)))}
    for k in sorted(areas, key=lambda k: -areas[k]):  # small masks on top
        mask = masks[..., k].astype(float)
        axis.contourf(mask, levels=[0.5, 1.5], colors=[colours[k]], alpha=0.18)
        axis.contour(mask, levels=[0.5], colors=[colours[k]], linewidths=1.1)
    return set(areas)


def draw_curves(path: Path, metrics: Mapping[str, Sequence[Mapping[str, float | int]]]) -> None:
    """Draw one row per training: the loss, and the scores of its evaluations.

    Args:
      path: the file to write.
      metrics: training's name -> its lines, see `loggers.read_metrics`.
    """
    figure = new_figure(9.0, 2.6 * len(metrics))
    axes = figure.subplots(len(metrics), 2, squeeze=False)
    for (loss_axis, score_axis), (name, lines) in zip(axes, metrics.items(), strict=True):
        keys = sorted({key for line in lines for key in line} - {"step"})
        for key in keys:
            points = [(line["step"], line[key]) for line in lines if key in line]
            axis = loss_axis if key == "loss" else score_axis
            marker = "" if key == "loss" and len(points) > 1 else "o"  # a single point is not a line
            axis.plot(*zip(*points, strict=True), marker=marker, lw=1.4, label=key)
        loss_axis.set_ylabel("training loss")
        loss_axis.set_title(name, fontsize=10, loc="left")
        # An evaluation writes lines without a loss; scores beside a loss belong to its batch.
        evaluated = any("loss" not in line for line in lines)
        images = "validation images" if evaluated else "training batches"
        score_axis.set_title(f"on the {images}", fontsize=10, loc="left")
        if score_axis.has_data():
            score_axis.legend(fontsize=8)
        for axis in (loss_axis, score_axis):
            axis.set_xlabel("step")
            axis.grid(alpha=0.25)
    save(figure, path)


def _radiographs(
    figure: "Figure", images: Sequence[np.ndarray], names: Sequence[str], headings: Sequence[str]
) -> np.ndarray:
    """Axes [rows, columns] without ticks: each row shows one radiograph, with its name at the left."""
    axes = figure.subplots(len(images), len(headings), squeeze=False)
    for row, image, name in zip(axes, images, names, strict=True):
        for axis in row:
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=7)
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.set_title(heading, fontsize=9)
    return axes


def _draw_verbatim(artist: "Artist") -> None:
    """Draw all texts as they are: dollars in the names of files and tasks enclose no formula."""
    from matplotlib.text import Text

    for text in artist.findobj(Text):
        text.set_parse_math(False)


def _draw_legend(figure: "Figure", colours: Mapping[str, str]) -> None:
    """Draw a legend below the axes, in as many columns as fit, and make room for more than two lines of it."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in colours.items()]
    style: dict[str, Any] = {
        "loc": "outside lower center",
        "fontsize": 8,
        "facecolor": "#404040",
        "labelcolor": "white",
    }
    for columns in range(min(5, len(handles)), 0, -1):
        legend = figure.legend(handles=handles, ncols=columns, **style)
        _draw_verbatim(legend)
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            lines = math.ceil(len(handles) / columns)
            figure.set_figheight(figure.get_figheight() + 0.18 * max(0, lines - 2))
            return
        legend.remove()
