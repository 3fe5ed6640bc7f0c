"""Reader of LabelMe's masks."""

import base64
import io
import posixpath
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from chexseg_jax.data.chexlocalize import encode, rasterize
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.drawing import as_floats, union
from chexseg_jax.exchange.items import Contents, Item, image_size
from chexseg_jax.exchange.masks import Context, read_json, text_of
from chexseg_jax.files import files_below


def read_labelme(source: Path, context: Context) -> Contents:
    """LabelMe's JSON files in a folder: polygons, rectangles, circles and masks, drawn as LabelMe draws them.

    A file names its image from its own folder, so p1/a.json with `a.png` is of p1/a.png.

    Raises:
      InputError: for a malformed file, or an image of another size than the file says.
    """
    files = [source]
    if source.is_dir():
        files = [file for file in files_below(source) if file.suffix.lower() == ".json"]
    if not files:
        raise InputError(f"{source}: no JSON files; give the folder that LabelMe wrote to")
    items, tasks = [], dict[str, Any]()
    for file in files:
        content = read_json(file, "LabelMe's JSON")
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise InputError(f"{file}: expected LabelMe's JSON, an object with the list shapes")
        named = {"imagePath": content.get("imagePath") or f"{file.stem}.png"}
        name = text_of(named, "imagePath", str(file)).replace("\\", "/")
        if source.is_dir():
            name = posixpath.normpath(posixpath.join(file.parent.relative_to(source).as_posix(), name))
        if (path := context.find(name)) is None:
            continue
        size = image_size(path)
        said = content.get("imageHeight"), content.get("imageWidth")
        if said != size:
            raise InputError(
                f"{file}: of an image of {said[0]} x {said[1]} pixels, {path} has {size[0]} x {size[1]}"
            )
        codes = defaultdict(list)
        for number, shape in enumerate(content["shapes"]):
            where = f"{file}: shape {number}"
            task = text_of(shape, "label", where)
            mask = _labelme_mask(shape, size, where)
            if mask is None:
                context.left_out.add("shapes without an area (points, lines)", where)
                continue
            codes[task].append(encode(mask))
        tasks.update(codes)
        items.append(Item(name, path, masks={task: union(parts) for task, parts in codes.items()}))
    return Contents(items, tuple(tasks))


def _labelme_mask(shape: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray | None:
    """One shape as LabelMe's own `shape_to_mask` draws it: Pillow, with the outline; None for lines and points."""
    kind = shape.get("shape_type") or "polygon"
    if kind in ("point", "points", "line", "linestrip"):
        return None
    corners = shape.get("points")
    flat = [as_floats(point) for point in corners] if isinstance(corners, list) else []
    least = 3 if kind == "polygon" else 2
    if any(point is None or len(point) != 2 for point in flat) or len(flat) < least:
        raise InputError(f"{where}: its points must be at least {least} pairs x, y")
    points = [(point[0], point[1]) for point in flat if point]
    if kind == "polygon":
        return rasterize([np.array(points)], size)
    (left, top), (right, bottom) = points[:2]
    if kind == "mask":
        return _labelme_crop(shape, (left, top), size, where)
    canvas = Image.new("1", size[::-1])
    if kind == "rectangle":
        corners = [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
        ImageDraw.Draw(canvas).rectangle(corners, outline=1, fill=1)
    elif kind == "circle":  # the centre, and a point on the rim
        radius = float(np.hypot(left - right, top - bottom))
        around = [left - radius, top - radius, left + radius, top + radius]
        ImageDraw.Draw(canvas).ellipse(around, outline=1, fill=1)
    else:
        raise InputError(f"{where}: unknown shape {kind!r}; polygon, rectangle, circle and mask have an area")
    return np.array(canvas, bool)


def _labelme_crop(
    shape: dict[str, Any], corner: tuple[float, float], size: tuple[int, int], where: str
) -> np.ndarray:
    """A mask shape: a PNG of its box in base64, placed at the box's corner."""
    try:
        with Image.open(
            io.BytesIO(base64.b64decode(shape["mask"], validate=True)), formats=("PNG",)
        ) as image:
            crop = np.array(image).astype(bool)
    except Exception:  # Pillow's reader raises whatever a damaged file leads it to
        raise InputError(f"{where}: its mask is not a PNG in base64; save it again") from None
    left, top = (round(value) for value in corner)
    full = np.zeros(size, bool)
    rows, columns = slice(top, top + crop.shape[0]), slice(left, left + crop.shape[1])
    if crop.ndim != 2 or min(left, top) < 0 or full[rows, columns].shape != crop.shape:
        raise InputError(f"{where}: its mask leaves the image")
    full[rows, columns] = crop
    return full
