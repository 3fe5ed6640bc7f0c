"""Masks for other programs: COCO JSON for CVAT and Label Studio, and PNG."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import Segmentations, read_segmentations
from chexseg_jax.data.layout import check_layout
from chexseg_jax.data.taxonomy import read_taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.drawing import outlines
from chexseg_jax.exchange.items import Images
from chexseg_jax.files import new_folder, written_aside


class Source(NamedTuple):
    """Masks, and the images' paths below the folder that an annotation program opens."""

    masks: Segmentations
    paths: Mapping[str, str]


def export(form: str, source: Path, out: Path, *, images: Path | None, rle: bool) -> list[str]:
    """Write all masks of a root, or of one segmentations file, in a format of `EXPORTERS`.

    Args:
      form: of `EXPORTERS`.
      source: a root, or a segmentations file in CheXlocalize's format, such as a prediction.
      out: the new folder.
      images: the folder of a file's images.
      rle: COCO: run lengths instead of polygons.

    Returns:
      Lines about what was written.

    Raises:
      InputError: if `out` exists, the source is neither, or an image is missing.
    """
    if rle and form != "coco":
        raise InputError(f"--rle is for coco; {form} does not use it; leave it out")
    if images and source.is_dir():
        raise InputError(f"--images {images}: the images are those of the root {source}; leave --images out")
    sources = _of_root(source) if source.is_dir() else {source.stem: _of_file(source, images, form)}
    with new_folder(out) as part:
        return [EXPORTERS[form](part, name, one, rle) for name, one in sources.items()]


def _of_root(root: Path) -> dict[str, Source]:
    layout, taxonomy = check_layout(root), read_taxonomy(root)
    sources = {}
    for split, file in layout.segmentations.items():
        studies = chexpert.read_labels(layout.tables[split], root=root, taxonomy=taxonomy)
        # As the file system has them, not as the table does: an annotation program opens the file.
        paths = {
            i: p.relative_to(layout.root).as_posix() for i, p in zip(studies.ids, studies.paths, strict=True)
        }
        sources[split] = Source(read_segmentations(file, taxonomy), paths)
    return sources


def _of_file(file: Path, folder: Path | None, form: str) -> Source:
    segmentations = read_segmentations(file, read_taxonomy(file.parent))
    if form == "png" and folder is None:
        return Source(segmentations, {})
    if folder is None:
        raise InputError(f"{file}: --images DIR is missing: COCO's JSON names the image files")
    images, paths = Images.below(folder), {}
    for image_id in segmentations.ids:
        if (path := images.find(image_id)) is None:
            raise InputError(f"{file}: no image {image_id} below {folder}")
        paths[image_id] = path.relative_to(images.folder).as_posix()
    return Source(segmentations, paths)


def _write_coco(folder: Path, name: str, source: Source, rle: bool) -> str:
    """`NAME.json`: an annotation for each task with a pixel; each polygon is one of its parts."""
    masks = source.masks
    tasks = {task: number for number, task in enumerate(masks.taxonomy.tasks, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image_id in enumerate(masks.ids, start=1):
        if image_id not in source.paths:
            raise InputError(f"{masks.path}: {image_id} is not in the table of its split")
        height, width = masks.size(image_id)
        images.append({"id": number, "file_name": source.paths[image_id], "height": height, "width": width})
        for task, code in masks.entries[image_id].items():
            if not (area := int(coco.area(code))):
                continue
            shape = code if rle else outlines(masks.mask(image_id, task))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": tasks[task],
                    "segmentation": shape,
                    "area": area,
                    "bbox": coco.toBbox(code).tolist(),
                    "iscrowd": int(rle),
                }
            )
    categories = [{"id": number, "name": task} for task, number in tasks.items()]
    with written_aside(folder / f"{name}.json") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)
    return f"{name}.json: {len(images)} images, {len(annotations)} masks"


def _write_png(folder: Path, name: str, source: Source, rle: bool) -> str:
    """`TASK/ID.png` for each mask that is known, 0 and 255."""
    masks, count = source.masks, 0
    for k, task in enumerate(masks.taxonomy.tasks):
        if "/" in task or task.startswith("."):
            raise InputError(f"task {task!r} cannot name a folder")
        (folder / task).mkdir(exist_ok=True)
        for image_id in masks.ids:
            if masks.known(image_id)[k]:
                Image.fromarray(np.uint8(255) * masks.mask(image_id, task)).save(
                    folder / task / f"{image_id}.png"
                )
                count += 1
    return f"{name}: {count} masks of {len(masks)} images"


EXPORTERS: dict[str, Callable[[Path, str, Source, bool], str]] = {"coco": _write_coco, "png": _write_png}
