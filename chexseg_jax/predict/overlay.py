"""A radiograph and its masks side by side, with a legend, drawn by Pillow: a twentieth of matplotlib's time."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from chexseg_jax.data.taxonomy import Taxonomy

#: Longest side of each picture, in pixels.
SIDE = 640
_GAP, _LINE, _SWATCH, _LEAST_WIDTH = 8, 24, 14, 480
_TINT, _GROUND, _INK = 46, "#303030", "#ffffff"  # of 255


def draw_overlay(
    image: UInt8[np.ndarray, "h w"],
    masks: Mapping[str, Bool[np.ndarray, "h w"]],
    taxonomy: Taxonomy,
    title: str,
) -> Image.Image:
    """Draw the radiograph, then with the masks tinted and outlined, below a title and above their legend.

    Args:
      image: the radiograph.
      masks: task -> mask, of the tasks that are present; each is in the legend.
      taxonomy: the tasks' colours.
      title: one line; what does not fit is cut.
    """
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 14)
    height, width = image.shape
    whole = max(2 * width + _GAP, _LEAST_WIDTH)
    colours = {task: taxonomy.colours[taxonomy.tasks.index(task)] for task in masks}
    entries = list(_places(colours, font, whole)) or [("no task is above its threshold", 0, 0)]
    lines = entries[-1][2] + 1
    canvas = Image.new("RGB", (whole, height + _LINE * (lines + 1)), _GROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, _LINE / 2), title, _INK, font, anchor="lm")
    canvas.paste(Image.fromarray(image), (0, _LINE))
    tinted = Image.fromarray(image).convert("RGB")
    for task in sorted(masks, key=lambda task: -masks[task].sum()):  # small masks on top
        mask = masks[task]
        outline = mask & ~_eroded(_eroded(mask))
        tinted.paste(
            colours[task], mask=Image.fromarray(np.where(outline, 255, _TINT * mask).astype(np.uint8))
        )
    canvas.paste(tinted, (width + _GAP, _LINE))
    for task, x, line in entries:
        middle = height + _LINE * (line + 1.5)
        if task in colours:
            top = middle - _SWATCH / 2
            draw.rectangle((x + _GAP, top, x + _GAP + _SWATCH, top + _SWATCH), fill=colours[task])
        draw.text((x + 2 * _GAP + _SWATCH, middle), task, _INK, font, anchor="lm")
    return canvas


def _eroded(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The pixels whose four neighbours are in the mask; beyond the picture there is nothing."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _places(
    colours: Mapping[str, str], font: ImageFont.FreeTypeFont, whole: int
) -> Iterator[tuple[str, float, int]]:
    """Yield where each entry of the legend starts: its x and its line."""
    x, line = 0.0, 0
    for task in colours:
        width = font.getlength(task) + _SWATCH + 4 * _GAP
        if x and x + width > whole:
            x, line = 0.0, line + 1
        yield task, x, line
        x += width
