"""CheXlocalize's files: masks as COCO run-length code, radiologists' polygons.

A segmentations file is `{image id: {task: {"size": [h, w], "counts": code}}}` at the radiograph's full size; an
annotations file is `{image id: {"img_size": [h, w], task: [[[x, y], ...], ...]}}`. Ids look like
`patient64541_study1_view1_frontal`. Five hundred radiographs times ten masks do not fit in memory as pixels, so
masks stay run-length coded and are decoded one image at a time.

Source: the files of Saporta et al., "Benchmarking saliency methods for chest X-ray interpretation", Nature
Machine Intelligence 2022 (https://github.com/rajpurkarlab/cheXlocalize).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int64
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy, write_taxonomy
from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError, naming
from chexseg_jax.files import written_aside
from chexseg_jax.progress import say

#: A larger size is a mistake, not a radiograph; below it every run length fits pycocotools' integers.
MAX_PIXELS = 1 << 28

#: Polygon corners may lie outside the image, but not this far: Pillow counts in 32-bit integers.
MAX_COORDINATE = 1e6


class Rle(TypedDict):
    """A mask in COCO's compressed run-length code, as in the JSON files."""

    size: list[int]  # [height, width]
    counts: str  # run lengths down the columns, background first


@dataclass(frozen=True)
class Segmentations:
    """The masks of a segmentations file, run-length coded until they are read. See `read_segmentations`.

    A task that an image does not list has an empty mask, or an unknown one where `taxonomy.missing` says so. The same
    holds for all tasks of an image that the file does not list: CheXlocalize's files list only images with a finding.
    """

    path: Path
    entries: Mapping[str, Mapping[str, Rle]]
    taxonomy: Taxonomy = CHEXPERT

    @property
    def ids(self) -> tuple[str, ...]:
        """Image ids, sorted."""
        return tuple(sorted(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.entries

    def size(self, image_id: str) -> tuple[int, int]:
        """(height, width) of an image's masks, in pixels."""
        height, width = next(iter(self._entry(image_id).values()))["size"]
        return height, width

    def known(self, image_id: str) -> Bool[np.ndarray, " K"]:
        """Whether each task of an image, listed or not, was annotated; an unknown mask carries no weight anywhere."""
        entry = self.entries.get(image_id, {})
        return np.array([self.taxonomy.missing == "empty" or task in entry for task in self.taxonomy.tasks])

    def rle(self, image_id: str, task: str) -> Rle:
        """A validated run-length code, safe for pycocotools; empty for a task that the image does not list."""
        height, width = self.size(image_id)
        return self._entry(image_id).get(self.taxonomy.task(task)) or empty(height, width)

    def mask(self, image_id: str, task: str) -> Bool[np.ndarray, "H W"]:
        """One mask at full size."""
        return decode(self.rle(image_id, task))

    def masks(self, image_id: str) -> Bool[np.ndarray, "H W K"]:
        """The masks of all tasks of an image at full size, in the taxonomy's order."""
        height, width = self.size(image_id)
        # Planar in memory: several times faster to fill and to count than interleaved.
        planes = np.zeros((len(self.taxonomy.tasks), height, width), bool)
        for task, code in self._entry(image_id).items():
            if coco.area(code):
                planes[self.taxonomy.tasks.index(task)] = decode(code)
        return np.moveaxis(planes, 0, -1)

    def check_size(self, image_id: str, size: tuple[int, int], image: str | Path = "its image") -> None:
        """Raise an `InputError` unless the masks have the radiograph's (height, width) in pixels."""
        if self.size(image_id) != tuple(size):
            (height, width), (rows, columns) = self.size(image_id), size
            raise InputError(
                f"{self.path}: masks of {image_id} have height x width {height} x {width}, {image} has "
                f"{rows} x {columns}; give masks at the full size of their image"
            )

    def _entry(self, image_id: str) -> Mapping[str, Rle]:
        if image_id not in self.entries:
            raise InputError(f"{self.path}: no masks for {image_id!r} (it has {len(self)} images)")
        return self.entries[image_id]


def read_segmentations(path: str | Path, taxonomy: Taxonomy = CHEXPERT) -> Segmentations:
    """Read a segmentations JSON; every run-length code is validated without decoding it.

    An image with an empty object, as CheXlocalize's human benchmark has some, counts as not listed; a line says so.
    Uncompressed codes, with `counts` a list of run lengths, are compressed.

    Raises:
      InputError: naming file, image and task, for a missing file, malformed JSON, an image listed twice, an unknown
        task, sizes that differ within an image, or a code that does not fill its size.
    """
    path = Path(path)
    entries, without = {}, []
    for image_id, listed in _read_object(path).items():
        entry: dict[str, Rle] = {}
        for task, code in _by_task(listed, f"{path}: {image_id}", taxonomy).items():
            where = f"{path}: {image_id}, {task}"
            entry[task] = checked_rle(code, where)
            first = next(iter(entry.values()))["size"]
            if entry[task]["size"] != first:
                raise InputError(
                    f"{where}: size {entry[task]['size']} differs from the {first} of the same image's "
                    f"{next(iter(entry))}; all masks of an image have its size"
                )
        if entry:
            entries[image_id] = entry
        else:
            without.append(image_id)
    if without:
        some = ", ".join(without[:3]) + ", ..." * (len(without) > 3)
        say(f"{path.name}: {len(without)} images list no mask, and count as not listed: {some}")
    return Segmentations(path, entries, taxonomy)


def write_segmentations(
    path: str | Path,
    items: Mapping[str, Any] | Iterable[tuple[str, Any]],
    taxonomy: Taxonomy = CHEXPERT,
) -> None:
    """Write masks as CheXlocalize's segmentations JSON and, beside it, `tasks.toml` if the tasks are not CheXpert's.

    Args:
      path: the file; it appears only when complete.
      items: `{id: masks}`, or (id, masks) pairs consumed one at a time. Masks are bool [H, W, K] in the taxonomy's
        order, or `{task: mask}` with a mask as bool [H, W] or run-length coded. A task left out is written as an
        empty mask, or left out where `taxonomy.missing` is "unknown".
      taxonomy: the tasks.
    """
    write_taxonomy(Path(path).parent, taxonomy)
    with written_aside(path) as file:
        file.write("{")
        for number, (image_id, masks) in enumerate(items.items() if isinstance(items, Mapping) else items):
            codes = encode_masks(masks, taxonomy)
            sizes = {tuple(code["size"]) for code in codes.values()}
            if len(sizes) != 1:
                raise ValueError(f"{image_id}: masks of one image must have one size, got {sorted(sizes)}")
            if taxonomy.missing == "empty":
                codes = dict.fromkeys(taxonomy.tasks, empty(*sizes.pop())) | codes
            file.write(f"{', ' if number else ''}{json.dumps(image_id)}: {json.dumps(codes)}")
        file.write("}")


def encode(mask: Bool[np.ndarray, "H W"]) -> Rle:
    """Encode a mask in COCO's compressed run-length code: the same string as in the published files."""
    code = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def encode_masks(
    masks: Bool[np.ndarray, "H W K"] | Mapping[str, Any], taxonomy: Taxonomy = CHEXPERT
) -> dict[str, Rle]:
    """Run-length codes by task, from [H, W, K] or from {task: mask}, each mask bool [H, W] or coded already."""
    if not isinstance(masks, Mapping):
        masks = dict(zip(taxonomy.tasks, np.moveaxis(masks, -1, 0), strict=True))
    return {taxonomy.task(task): encode(m) if isinstance(m, np.ndarray) else m for task, m in masks.items()}


def empty(height: int, width: int) -> Rle:
    """The code of an empty mask."""
    code = coco.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def decode(code: Rle) -> Bool[np.ndarray, "H W"]:
    """Decode a mask; ValueError for a code that is malformed or does not fill its size."""
    height, width = code["size"]
    runs = run_lengths(code["counts"])
    # Eight times faster than pycocotools' decode, and safe with any input.
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def run_lengths(counts: str) -> Int64[np.ndarray, " runs"]:
    """Lengths of the runs in a code, in pixels, background first; their sum is height x width.

    pycocotools trusts its input: on a malformed code it reads past the end or fills only part of the mask. This
    function validates the code first. Format (COCO API, `maskApi.c`): each number takes 5 bits a character from
    "0" on, low bits first, bit 5 set while more follow, sign in the last character's bit 4; from the fourth number
    on, each is the difference to the number two before.

    Raises:
      ValueError: for a character out of range, an unfinished or overlong number, or a negative length.
    """
    if not counts:
        raise ValueError("it is empty")
    digits = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not counts.isascii() or digits.min() < 0 or digits.max() > 63:
        raise ValueError("it has characters that the code does not use")
    last = (digits & 32) == 0
    if not last[-1]:
        raise ValueError("it breaks off within a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if length.max() > 6:
        raise ValueError("it has a number of more than 30 bits")
    place = np.arange(digits.size) - np.repeat(starts, length)
    numbers = np.add.reduceat((digits & 31) << (5 * place), starts)
    numbers -= np.where(digits[ends] & 16, 1 << (5 * length), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0:
        raise ValueError("it has a negative run length")
    return numbers


@dataclass(frozen=True)
class Annotation:
    """The radiologists' polygons on one radiograph, by task, in pixels of the full image."""

    size: tuple[int, int]  # (height, width)
    polygons: Mapping[str, Sequence[Float[np.ndarray, "_ 2"]]]  # corners (x, y)
    taxonomy: Taxonomy = CHEXPERT

    def mask(self, task: str) -> Bool[np.ndarray, "H W"]:
        """The mask of a task, pixel for pixel as in the published segmentations file."""
        return rasterize(self.polygons.get(self.taxonomy.task(task), ()), self.size)

    def masks(self) -> Bool[np.ndarray, "H W K"]:
        """The masks of all tasks, in the taxonomy's order."""
        return np.stack([self.mask(task) for task in self.taxonomy.tasks], axis=-1)


def read_annotations(path: str | Path, taxonomy: Taxonomy = CHEXPERT) -> dict[str, Annotation]:
    """Read an annotations JSON: image id -> polygons by task; absent findings are not listed.

    Raises:
      InputError: naming file, image and task, for a missing file, malformed JSON, an unknown task, or a polygon that
        is not a list of two or more finite [x, y].
    """
    path = Path(path)
    annotations = {}
    for image_id, listed in _read_object(path).items():
        where = f"{path}: {image_id}"
        if not isinstance(listed, dict) or "img_size" not in listed:
            raise InputError(f"{where}: expected an object with img_size: [height, width]")
        size = _size(listed["img_size"], f"{where}: img_size")
        shapes = {name: value for name, value in listed.items() if name != "img_size"}
        drawn = _by_task(shapes, where, taxonomy)
        polygons = {task: _polygons(contours, f"{where}, {task}") for task, contours in drawn.items()}
        annotations[image_id] = Annotation(size, polygons, taxonomy)
    return annotations


def write_annotations(
    path: str | Path,
    items: Mapping[str, tuple[int, int, Mapping[str, Sequence[Float[np.ndarray, "_ 2"]]]]],
    taxonomy: Taxonomy = CHEXPERT,
) -> None:
    """Write `{id: (height, width, {task: polygons})}` as CheXlocalize's annotations JSON.

    A polygon is [corners, 2] of (x, y) in pixels of the full image, kept to five decimals as in the published
    files. A task without polygons is left out, as there.
    """
    with written_aside(path) as file:
        entries = {}
        for image_id, (height, width, drawn) in items.items():
            entries[image_id] = {"img_size": [int(height), int(width)]}
            for task, polygons in drawn.items():
                if polygons:
                    entries[image_id][taxonomy.task(task)] = [
                        np.round(np.asarray(polygon, float), 5).tolist() for polygon in polygons
                    ]
        json.dump(entries, file)


def rasterize(polygons: Sequence[Float[np.ndarray, "_ 2"]], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Draw the union of polygons, outline included, at size (height, width).

    Pillow draws it on a one-bit image, as for the published masks; other rasterisers differ at the rim.
    """
    height, width = size
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon([(float(x), float(y)) for x, y in polygon], outline=1, fill=1)
    return np.array(canvas, bool)


def _read_object(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            names = [name for name, _ in pairs]
            double = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path}: {double!r} is listed twice; keep one")
        return entry

    try:
        content = json.loads(read_text(path, "CheXlocalize's JSON"), object_pairs_hook=once)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); download or write it again") from None
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{path}: expected an object of image ids, each with its tasks, as in CheXlocalize's files"
        )
    if wrong := [name for name in content if name.encode(errors="replace").decode() != name]:
        raise InputError(f"{path}: image id {wrong[0]!r} is not Unicode text; write it again")
    return content


def _by_task(listed: Any, where: str, taxonomy: Taxonomy) -> dict[str, Any]:
    if not isinstance(listed, dict):
        raise InputError(f"{where}: expected an object of tasks, got {str(listed)[:40]!r}")
    entry = {}
    for name, value in listed.items():
        with naming(where):
            task = taxonomy.task(name)
        if task in entry:
            raise InputError(f"{where}: {task} is listed under two names; keep one")
        entry[task] = value
    return entry


def _size(size: Any, where: str) -> tuple[int, int]:
    whole = isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    if not whole or size[0] * size[1] > MAX_PIXELS:
        raise InputError(f"{where}: {str(size)[:40]} is not the [height, width] of a radiograph in pixels")
    return size[0], size[1]


def checked_rle(code: Any, where: str) -> Rle:
    """A run-length code, compressed and safe for pycocotools; `InputError` naming `where` if it is malformed."""
    if not isinstance(code, dict) or not isinstance(code.get("counts"), str | list):
        raise InputError(f'{where}: expected COCO run lengths, {{"size": [height, width], "counts": "..."}}')
    height, width = _size(code.get("size"), where)
    counts = code["counts"]
    try:
        runs = run_lengths(counts) if isinstance(counts, str) else _uncompressed(counts)
    except ValueError as error:
        raise InputError(f"{where}: malformed run-length code, {error}; encode the mask again") from None
    if (pixels := int(runs.sum())) != height * width:
        raise InputError(
            f"{where}: run lengths cover {pixels} pixels, {height} x {width} are {height * width}; encode "
            f"the mask again at the size of its image"
        )
    if isinstance(counts, list):
        counts = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)[
            "counts"
        ].decode()
    checked: Rle = {"size": [height, width], "counts": counts}
    # Runs of length 0 are legal, but pycocotools stops early when two masks to be intersected both have one.
    return checked if runs[1:].all() else encode(decode(checked))


def _uncompressed(counts: list[Any]) -> Int64[np.ndarray, " runs"]:
    """The lengths of COCO's uncompressed code, as `run_lengths` gives them for the compressed one."""
    if not counts or not all(type(n) is int and 0 <= n <= MAX_PIXELS for n in counts):
        raise ValueError("its run lengths must be whole numbers of at least 0")
    return np.array(counts, np.int64)


def _polygons(contours: Any, where: str) -> list[Float[np.ndarray, "_ 2"]]:
    try:
        polygons = [np.asarray(corners, float) for corners in contours]
    except (TypeError, ValueError, OverflowError):
        polygons = [np.zeros(0)]
    for polygon in polygons:
        sound = polygon.ndim == 2 and polygon.shape[0] >= 2 and polygon.shape[1] == 2
        if not sound or not (np.abs(polygon) <= MAX_COORDINATE).all():
            raise InputError(f"{where}: expected polygons, lists of two or more [x, y] in pixels")
    return polygons
