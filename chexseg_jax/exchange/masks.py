"""Readers of masks: COCO JSON, LabelMe, PNG, SIIM-ACR, VinDr-CXR, ChestX-Det."""

import base64
import binascii
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from chexseg_jax.data.chexlocalize import Rle, empty, encode, rasterize
from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.drawing import agreed, as_floats, from_box, from_coco, from_runs, union
from chexseg_jax.exchange.items import Contents, Images, Item, LeftOut, image_size, read_rows

NOT_FOUND = "images that are not below --images"


@dataclass(frozen=True)
class Context:
    """What readers need beside the source.

    Attributes:
      images: the files that names stand for.
      left_out: receives what a reader leaves out.
      boxes: whether a box stands for its mask where there is nothing finer.
      agree: a pixel belongs to a mask if so many readers drew it; None if that was not said.
      columns: of a CSV table, by what they hold: image, patient, study, view, split.
      reports: the table of reports that CheXbert read.
    """

    images: Images
    left_out: LeftOut
    boxes: bool = False
    agree: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    reports: Path | None = None

    def find(self, name: str) -> Path | None:
        """The file of an image; one that is missing is noted as left out."""
        if (path := self.images.find(name)) is None:
            self.left_out.add(NOT_FOUND, name)
        return path


def read_json(path: Path, kind: str) -> Any:
    """A JSON file; `InputError` if it is not one."""
    try:
        return json.loads(read_text(path, kind))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); export it again") from None


def read_coco(source: Path, context: Context) -> Contents:
    """COCO's JSON, as CVAT and Label Studio export it; crowds (`iscrowd`) are masks as any other.

    Raises:
      InputError: for a file of another format, an unknown image or category, a malformed segmentation, or an image of
        another size than the file says.
    """
    content = read_json(source, "COCO's JSON")
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise InputError(f"{source}: expected COCO's JSON, an object with the lists {', '.join(lists)}")
    try:
        categories = {category["id"]: str(category["name"]).strip() for category in content["categories"]}
        entries = {entry["id"]: entry for entry in content["images"]}
        drawn = defaultdict(list)
        for annotation in content["annotations"]:
            drawn[annotation["image_id"]].append(annotation)
    except (KeyError, TypeError) as error:
        raise InputError(f"{source}: not COCO's JSON: an entry without {error}") from None
    if unknown := sorted(map(str, drawn.keys() - entries)):
        raise InputError(f"{source}: annotations of image {unknown[0]}, which its list of images lacks")
    items = []
    for key, entry in entries.items():
        name = str(entry.get("file_name", ""))
        if (path := context.find(name)) is None:
            continue
        size = image_size(path)
        if (entry.get("height"), entry.get("width")) != size:
            said = f"{entry.get('height')} x {entry.get('width')}"
            raise InputError(
                f"{source}: {name} has height x width {said}, the file {path} {size[0]} x {size[1]}; give the images "
                "that were annotated"
            )
        codes = defaultdict(list)
        for annotation in drawn[key]:
            where = f"{source}: {name}, annotation {annotation.get('id')}"
            number = annotation.get("category_id")
            if not isinstance(number, int | str) or number not in categories:
                raise InputError(f"{where}: unknown category {number}")
            task = categories[number]
            if (code := _coco_mask(annotation, size, where, context)) is not None:
                codes[task].append(code)
        items.append(Item(name, path, masks={task: union(parts) for task, parts in codes.items()}))
    return Contents(items, tuple(categories.values()))


def _coco_mask(annotation: dict[str, Any], size: tuple[int, int], where: str, context: Context) -> Rle | None:
    if annotation.get("segmentation"):
        return from_coco(annotation["segmentation"], size, where)
    box = as_floats(annotation.get("bbox"))
    if box is None or len(box) != 4:
        raise InputError(f"{where}: neither a segmentation nor a box")
    if not context.boxes:
        context.left_out.add("boxes without a segmentation; --boxes takes them as masks", where)
        return None
    left, top, width, height = box
    return from_box((left, top, left + width, top + height), size, where)


def read_png(source: Path, context: Context) -> Contents:
    """Masks as PNG: `TASK/NAME.png` or `NAME_TASK.png`; 0 is background, 255 or 1 the task.

    Raises:
      InputError: for another value, a file whose name has no image, or a mask of another size than its image.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected one of masks, TASK/NAME.png or NAME_TASK.png")
    items: dict[Path, Item] = {}
    tasks = dict.fromkeys(folder.name for folder in sorted(source.iterdir()) if folder.is_dir())
    for file in sorted(source.rglob("*.png")):
        folders = file.relative_to(source).parts[:-1]
        if len(folders) > 1:
            raise InputError(f"{file}: too deep; expected TASK/NAME.png or NAME_TASK.png below {source}")
        if folders:
            task, name = folders[0], file.stem
        else:
            cuts = [i for i, letter in enumerate(file.stem) if letter == "_"]
            ends = ((file.stem[:i], file.stem[i + 1 :]) for i in reversed(cuts))
            name, task = next((end for end in ends if context.images.find(end[0])), (file.stem, ""))
        if (path := context.find(name)) is None:
            continue
        tasks[task] = None
        item = items.setdefault(path, Item(name, path, masks={}))
        if task in item.masks:
            raise InputError(f"{file}: a second mask of {task} of {path.name}; keep one")
        item.masks[task] = encode(_png_mask(file, image_size(path)))
    return Contents(list(items.values()), tuple(tasks))


def _png_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(file, formats=("PNG",)) as image:
            pixels = np.array(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{file}: not a readable PNG ({error}); export it again") from None
    if pixels.ndim == 3:  # colour: only where all channels agree
        same = (pixels[..., :3] == pixels[..., :1]).all()
        opaque = pixels.shape[2] not in (2, 4) or (pixels[..., -1] == 255).all()
        if not (same and opaque):
            raise InputError(f"{file}: a coloured or transparent mask; save it as one grey channel")
        pixels = pixels[..., 0]
    if pixels.shape != size:
        raise InputError(
            f"{file}: has {pixels.shape[0]} x {pixels.shape[1]} pixels, its image {size[0]} x {size[1]}"
        )
    values = set(np.unique(pixels).tolist())
    if not (values <= {0, 1} or values <= {0, 255}):
        odd = ", ".join(map(str, sorted(values)[:6]))
        raise InputError(f"{file}: has values {odd}; a mask has 0 for background and 255 (or 1) for its task")
    return pixels > 0


def read_labelme(source: Path, context: Context) -> Contents:
    """LabelMe's JSON files in a folder: polygons, rectangles, circles and masks, drawn as LabelMe draws them.

    Raises:
      InputError: for a malformed file, or an image of another size than the file says.
    """
    files = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    if not files:
        raise InputError(f"{source}: no JSON files; give the folder that LabelMe wrote to")
    items, tasks = [], dict[str, Any]()
    for file in files:
        content = read_json(file, "LabelMe's JSON")
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise InputError(f"{file}: expected LabelMe's JSON, an object with the list shapes")
        name = Path(str(content.get("imagePath", "")).replace("\\", "/")).name or f"{file.stem}.png"
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
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                raise InputError(f"{where}: no label")
            mask = _labelme_mask(shape, size, where)
            if mask is None:
                context.left_out.add("shapes without an area (points, lines)", where)
                continue
            codes[shape["label"].strip()].append(encode(mask))
        tasks.update(codes)
        items.append(Item(name, path, masks={task: union(parts) for task, parts in codes.items()}))
    return Contents(items, tuple(tasks))


def _labelme_mask(shape: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray | None:
    """One shape as LabelMe's own `shape_to_mask` draws it: Pillow, with the outline; None for lines and points."""
    kind = shape.get("shape_type") or "polygon"
    if kind in ("point", "points", "line", "linestrip"):
        return None
    flat = [as_floats(point) for point in shape.get("points") or ()]
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
    except (KeyError, TypeError, OSError, ValueError, SyntaxError, binascii.Error):
        raise InputError(f"{where}: its mask is not a PNG in base64; save it again") from None
    left, top = (round(value) for value in corner)
    full = np.zeros(size, bool)
    rows, columns = slice(top, top + crop.shape[0]), slice(left, left + crop.shape[1])
    if crop.ndim != 2 or min(left, top) < 0 or full[rows, columns].shape != crop.shape:
        raise InputError(f"{where}: its mask leaves the image")
    full[rows, columns] = crop
    return full


def read_siim(source: Path, context: Context) -> Contents:
    """SIIM-ACR Pneumothorax: `ImageId, EncodedPixels`; each run's start counts from the end of the one before.

    Runs go down the columns; -1 is no pneumothorax; several rows of an image are several pieces.

    Raises:
      InputError: for a malformed row, or runs that leave the image.
    """
    pieces: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for line, row in read_rows(source, ("ImageId", "EncodedPixels")):
        pieces[row["ImageId"]].append((line, row["EncodedPixels"]))
    items = []
    for name, rows in pieces.items():
        if (path := context.find(name)) is None:
            continue
        size = image_size(path)
        codes = [empty(*size)]
        for line, text in rows:
            try:
                runs = [int(number) for number in text.split()]
                if not runs or (len(runs) % 2 and runs != [-1]):
                    raise ValueError("it is not pairs of a gap and a length")
                codes += [] if runs == [-1] else [from_runs(runs, size)]
            except ValueError as error:
                raise InputError(f"{source}, line {line}: EncodedPixels of {name}: {error}") from None
        items.append(Item(name, path, masks={"Pneumothorax": union(codes)}))
    return Contents(items, ("Pneumothorax",))


def read_vindr(source: Path, context: Context) -> Contents:
    """VinDr-CXR's boxes as masks: `image_id, rad_id, class_name, x_min, y_min, x_max, y_max`.

    A class counts where `context.agree` radiologists' boxes overlap; `No finding` leaves all tasks empty.

    Raises:
      InputError: for a malformed row, a box outside its image, or several radiologists if `agree` is None.
    """
    corners = ("x_min", "y_min", "x_max", "y_max")
    boxes: dict[str, dict[str, dict[str, list[Rle]]]] = {}
    paths: dict[str, Path | None] = {}
    readers: dict[str, set[str]] = defaultdict(set)
    tasks: dict[str, None] = {}
    for line, row in read_rows(source, ("image_id", "class_name", *corners)):
        name, task, where = row["image_id"], row["class_name"], f"{source}, line {line}: {row['image_id']}"
        if name not in paths:
            paths[name], boxes[name] = context.find(name), defaultdict(lambda: defaultdict(list))
        if (path := paths[name]) is None:
            continue
        readers[name].add(row.get("rad_id", ""))
        if context.agree is None and len(readers[name]) > 1:
            raise InputError(
                f"{where}: several radiologists read it; say with --agree N how many of them must have drawn a pixel "
                "(1: any of them)"
            )
        if task.lower() == "no finding":
            continue
        box = as_floats([row[corner] for corner in corners])
        if box is None:
            raise InputError(f"{where}: its box must be four numbers, {', '.join(corners)}")
        tasks[task] = None
        boxes[name][task][row.get("rad_id", "")].append(from_box(box, image_size(path), where))
    least = context.agree or 1
    items = []
    for name, path in paths.items():
        if path is None:
            continue
        merged = {task: [union(codes) for codes in by.values()] for task, by in boxes[name].items()}
        masks = {task: agreed(codes, least) for task, codes in merged.items()}
        items.append(Item(name, path, masks=masks))
    return Contents(items, tuple(tasks))


def read_chestxdet(source: Path, context: Context) -> Contents:
    """ChestX-Det's JSON: a list of `file_name`, `syms`, `boxes` and `polygons`, one of each a finding.

    Raises:
      InputError: for a malformed entry.
    """
    content = read_json(source, "ChestX-Det's JSON")
    if not isinstance(content, list) or not all(isinstance(e, dict) and "file_name" in e for e in content):
        raise InputError(
            f"{source}: expected ChestX-Det's JSON, a list of objects with file_name, syms, polygons"
        )
    items, tasks = [], dict[str, Any]()
    for entry in content:
        name = str(entry["file_name"])
        if (path := context.find(name)) is None:
            continue
        size, codes = image_size(path), defaultdict(list)
        for task, code in _chestxdet_masks(entry, size, f"{source}: {name}", context):
            codes[task].append(code)
        tasks.update(codes)
        items.append(Item(name, path, masks={task: union(parts) for task, parts in codes.items()}))
    return Contents(items, tuple(tasks))


def _chestxdet_masks(
    entry: dict[str, Any], size: tuple[int, int], where: str, context: Context
) -> Iterator[tuple[str, Rle]]:
    names = entry.get("syms") or []
    polygons = entry.get("polygons") or [[]] * len(names)
    boxes = entry.get("boxes") or [[]] * len(names)
    if not len(names) == len(polygons) == len(boxes):
        raise InputError(f"{where}: {len(names)} syms, {len(polygons)} polygons and {len(boxes)} boxes")
    for task, polygon, box in zip(names, polygons, boxes, strict=True):
        corners, sides = [as_floats(point) for point in polygon], as_floats(box)
        if any(point is None or len(point) != 2 for point in corners) or len(corners) in (1, 2):
            raise InputError(f"{where}, {task}: a polygon must be a list of at least three [x, y]")
        if corners:
            yield task, encode(rasterize([np.array(corners)], size))
        elif sides is None or len(sides) != 4:
            raise InputError(f"{where}, {task}: neither a polygon nor a box")
        elif context.boxes:
            yield task, from_box(sides, size, f"{where}, {task}")
        else:
            context.left_out.add("boxes without a polygon; --boxes takes them as masks", f"{where}, {task}")
