"""Readers of masks: COCO JSON, PNG, SIIM-ACR, VinDr-CXR, ChestX-Det."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from chexseg_jax.data.chexlocalize import Rle, empty, encode, rasterize
from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError, first_line
from chexseg_jax.exchange.drawing import agreed, as_floats, from_box, from_coco, from_runs, union
from chexseg_jax.exchange.items import (
    SUFFIXES,
    Contents,
    Images,
    Item,
    LeftOut,
    check_utf8,
    image_size,
    read_rows,
)
from chexseg_jax.files import files_below

NOT_FOUND = "images that are not below --images"
_SIIM_SIZE = (1024, 1024)


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
      unwanted: labels that are left out, whatever their cells hold.
    """

    images: Images
    left_out: LeftOut
    boxes: bool = False
    agree: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    reports: Path | None = None
    unwanted: Collection[str] = ()

    def find(self, name: str) -> Path | None:
        """The file of an image; one that is missing is noted as left out."""
        if (path := self.images.find(name)) is None:
            self.left_out.add(NOT_FOUND, name)
        return path


def read_json(path: Path, kind: str) -> Any:
    """A JSON file; `InputError` if it is not one."""
    text = read_text(path, kind)
    try:
        content = json.loads(text)
        if "\\ud" in text.lower():  # half a surrogate pair is no text, and cannot be written
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); export it again") from None
    return content


def text_of(entry: Any, name: str, where: str) -> str:
    """A text of a JSON object; `InputError` if it has none, or a blank one."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name} is {str(value)[:40]!r}; expected a text")
    return value.strip()


def read_coco(source: Path, context: Context) -> Contents:
    """COCO's JSON, as CVAT and Label Studio export it; crowds (`iscrowd`) are masks as any other.

    Raises:
      InputError: for a file of another format, an id that is unknown or used twice, a malformed segmentation, or an
        image of another size than the file says.
    """
    content = read_json(source, "COCO's JSON")
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise InputError(f"{source}: expected COCO's JSON, an object with the lists {', '.join(lists)}")
    categories = {
        key: text_of(entry, "name", f"{source}: category {key}")
        for key, entry in _by_id(content, "categories", source).items()
    }
    entries, drawn = _by_id(content, "images", source), defaultdict(list)
    for number, annotation in enumerate(content["annotations"]):
        key = _id(annotation, "image_id", f"{source}: annotations[{number}]")
        if key not in entries:
            raise InputError(f"{source}: annotations of image {key}, which its list of images lacks")
        drawn[key].append(annotation)
    items = []
    for key, entry in entries.items():
        name = text_of(entry, "file_name", f"{source}: image {key}")
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
            category = _id(annotation, "category_id", where)
            if category not in categories:
                raise InputError(f"{where}: unknown category {category}")
            task = categories[category]
            if (code := _coco_mask(annotation, size, where, context)) is not None:
                codes[task].append(code)
        items.append(Item(name, path, masks={task: union(parts) for task, parts in codes.items()}))
    return Contents(items, tuple(categories.values()))


def _by_id(content: dict[str, Any], kind: str, source: Path) -> dict[int | float | str, Any]:
    """The entries of a list by their ids."""
    entries: dict[int | float | str, Any] = {}
    for number, entry in enumerate(content[kind]):
        key = _id(entry, "id", f"{source}: {kind}[{number}]")
        if key in entries:
            raise InputError(f"{source}: {kind} has the id {key} twice; give each entry its own")
        entries[key] = entry
    return entries


def _id(entry: Any, name: str, where: str) -> int | float | str:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, int | float | str):
        raise InputError(f"{where}: not COCO's JSON: an entry without {name}")
    return value


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

    Other files are left out, and so are folders without a mask.

    Raises:
      InputError: for another value, an image of another format, a mask of another size than its image, or no mask.
    """
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected one of masks, TASK/NAME.png or NAME_TASK.png")
    items: dict[Path, Item] = {}
    tasks = dict[str, Any]()
    files = _png_files(source, context)
    for file in files:
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
        if not task:
            raise InputError(
                f"{file}: names no task; put it into a folder named as its task, TASK/{file.name}"
            )
        tasks[task] = None
        item = items.setdefault(path, Item(name, path, masks={}))
        if task in item.masks:
            raise InputError(f"{file}: a second mask of {task} of {path.name}; keep one")
        item.masks[task] = encode(_png_mask(file, image_size(path)))
    return Contents(list(items.values()), tuple(tasks))


def _png_files(source: Path, context: Context) -> list[Path]:
    masks: list[Path] = []
    others: list[Path] = []
    for file in files_below(source):
        check_utf8(file.relative_to(source))
        if file.suffix.lower() in SUFFIXES and file.suffix.lower() != ".png":
            raise InputError(f"{file}: a mask must be a PNG file; save it as one, or take it out of {source}")
        (masks if file.suffix.lower() == ".png" else others).append(file)
    if not masks:
        raise InputError(f"{source}: no masks; expected PNG files, TASK/NAME.png or NAME_TASK.png")
    for file in others:
        context.left_out.add(f"files of {source} that are no PNG masks", str(file.relative_to(source)))
    for folder in sorted(source.iterdir()):
        if folder.is_dir() and not any(mask.is_relative_to(folder) for mask in masks):
            context.left_out.add(f"folders of {source} without a mask", folder.name)
    return masks


def _png_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(file, formats=("PNG",)) as image:
            pixels = np.array(image)
    except Exception as error:  # Pillow's reader raises whatever a damaged file leads it to
        raise InputError(f"{file}: not a readable PNG ({first_line(error)}); export it again") from None
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


def read_siim(source: Path, context: Context) -> Contents:
    """SIIM-ACR Pneumothorax: `ImageId, EncodedPixels`; each run's start counts from the end of the one before.

    Runs go down the columns of 1024 x 1024 pixels; -1 is no pneumothorax; several rows of an image are several pieces.

    Raises:
      InputError: for a malformed row, runs that leave the image, or an image of another size.
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
                if runs != [-1] and size != _SIIM_SIZE:
                    raise ValueError(
                        f"its runs count 1024 x 1024 pixels, the image has {size[0]} x {size[1]}"
                    )
                codes += [] if runs == [-1] else [from_runs(runs, size)]
            except ValueError as error:
                raise InputError(f"{source}, line {line}: EncodedPixels of {name}: {error}") from None
        items.append(Item(name, path, masks={"Pneumothorax": union(codes)}))
    return Contents(items, ("Pneumothorax",))


def read_vindr(source: Path, context: Context) -> Contents:
    """VinDr-CXR's boxes as masks: `image_id, rad_id, class_name, x_min, y_min, x_max, y_max`.

    A class counts where `context.agree` radiologists' boxes overlap; `No finding` leaves all tasks empty. A table
    without `rad_id`, as that of the test images, has boxes that radiologists agreed on: all of them count.

    Raises:
      InputError: for a malformed row, a box outside its image, several radiologists if `agree` is None, or an `agree`
        that no image's radiologists reach.
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
    most = max(map(len, readers.values()), default=1)
    consensus = not any(map(any, readers.values()))
    if context.agree is not None and not (1 <= context.agree <= most or consensus):
        raise InputError(
            f"{source}: --agree {context.agree} must be from 1 to {most}, the most who read an image"
        )
    least = 1 if consensus else context.agree or 1
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
    if not isinstance(content, list):
        raise InputError(
            f"{source}: expected ChestX-Det's JSON, a list of objects with file_name, syms, polygons"
        )
    items, tasks = [], dict[str, Any]()
    for number, entry in enumerate(content):
        name = text_of(entry, "file_name", f"{source}: entry {number}")
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
    names, polygons, boxes = (entry.get(key) or [] for key in ("syms", "polygons", "boxes"))
    if not all(isinstance(values, list) for values in (names, polygons, boxes)):
        raise InputError(f"{where}: syms, polygons and boxes must be lists")
    polygons, boxes = (values or [[]] * len(names) for values in (polygons, boxes))
    if not len(names) == len(polygons) == len(boxes):
        raise InputError(f"{where}: {len(names)} syms, {len(polygons)} polygons and {len(boxes)} boxes")
    for task, polygon, box in zip(names, polygons, boxes, strict=True):
        if not isinstance(task, str) or not isinstance(polygon, list):
            raise InputError(f"{where}: a sym must be a text, and its polygon a list")
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
