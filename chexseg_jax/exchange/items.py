"""What a data set says about its images, and the files of these images, before they become a root."""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ExifTags, Image

from chexseg_jax.data.chexlocalize import Rle
from chexseg_jax.data.layout import image_id
from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError
from chexseg_jax.files import expand_home

#: Suffixes of image files.
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


@dataclass
class Item:
    """What one source says about one image; None is what it does not say.

    Attributes:
      name: the image's name in the source.
      path: its file.
      masks: run-length codes by task, at full size; without an entry for a task that the source does not list. None
        for an image that was not annotated.
      labels: 1, 0, -1 (uncertain) or nan (blank), by label.
      patient, study: such as `64541` and `1`.
      split: train, valid or test.
      frontal: whether the view is frontal (else lateral).
      extra: further cells of CheXpert's table: Sex, Age, AP/PA.
    """

    name: str
    path: Path
    masks: dict[str, Rle] | None = None
    labels: dict[str, float] = field(default_factory=dict)
    patient: str | None = None
    study: str | None = None
    split: str | None = None
    frontal: bool | None = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """The items of a source, and the tasks that it knows, also those without any mask."""

    items: Sequence[Item]
    tasks: Sequence[str] = ()


class LeftOut:
    """What an import leaves out, by reason: it is counted and named at the end."""

    def __init__(self) -> None:
        self.names: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str) -> None:
        """Note one thing that is left out."""
        self.names[reason].append(name)

    def lines(self, shown: int | None = 3) -> list[str]:
        """A line for each reason, with the first names, or with all."""
        return [
            f"left out: {len(names)} {reason}: {', '.join(names[:shown])}"
            f"{', ...' * (shown is not None and len(names) > shown)}"
            for reason, names in self.names.items()
        ]


class Images:
    """The image files that names in a source stand for.

    An image is found by its path below the folder, by the end of that path, by its name, each with or without suffix,
    and by its id in our tables, such as `patient64541_study1_view1_frontal`. Tables name .jpg and .dcm where the files
    are .png.
    """

    def __init__(self, folder: Path, files: Iterable[Path]):
        self.folder = folder
        self.files = sorted(files)
        self._found: defaultdict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            parts = file.relative_to(folder).parts
            for key in {*_keys(parts), image_id(parts)}:
                self._found[key].append(file)

    @classmethod
    def below(cls, folder: Path, without: Sequence[Path] = ()) -> "Images":
        """All image files below a folder, links followed; neither dot-files nor files below `without`, such as masks.

        Raises:
          InputError: for a folder that does not exist or has no image.
        """
        folder = expand_home(folder).absolute()
        files = [
            Path(place, name)
            for place, _, names in os.walk(folder, followlinks=True)
            for name in names
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
            if not any(Path(place).is_relative_to(other) for other in without)
        ]
        if not files:
            raise InputError(f"{folder}: no images ({', '.join(SUFFIXES)}); give the folder that holds them")
        return cls(folder, files)

    def find(self, name: str) -> Path | None:
        """The file of an image; None if there is none.

        Raises:
          InputError: if several files could be meant.
        """
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))
        for key in _keys(parts) if parts else ():
            if found := self._found.get(key):
                if len(found) > 1:
                    some = ", ".join(str(file.relative_to(self.folder)) for file in found[:2])
                    raise InputError(
                        f"{name}: may be any of {len(found)} images, such as {some}; name its folder too"
                    )
                return found[0]
        return None


def _keys(parts: tuple[str, ...]) -> list[str]:
    """What an image may be called, the most precise first."""
    name = parts[-1]
    stem, dot, suffix = name.rpartition(".")
    stem = stem if dot and f".{suffix.lower()}" in (*SUFFIXES, ".dcm") else name
    ends = ["/".join((*parts[-count:-1], stem)) for count in (len(parts), 3, 2)]
    return ["/".join(parts), *ends, name, stem]


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels of an image that masks are drawn on.

    Raises:
      InputError: for an image that cannot be opened, or that viewers turn by its EXIF orientation: annotation programs
        differ on whether its masks are turned too.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
            size = image.height, image.width
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable image ({error}); leave it out or get it again") from None
    if turned:
        raise InputError(
            f"{path}: has an EXIF orientation, so its masks may be turned or not; save it upright and annotate that"
        )
    return size


def read_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV table with their line numbers; cells are stripped, blank rows skipped.

    Raises:
      InputError: for a file that is missing, not a table, or lacks one of `columns`, and a row with other cells.
    """
    table = csv.reader(io.StringIO(read_text(path, "a CSV table"), newline=""))
    try:
        header = [name.strip() for name in next(table)]
        while header and not header[-1]:  # Excel's tail of commas
            header.pop()
        if lacking := [name for name in columns if name not in header]:
            raise InputError(f"{path}: no column {', '.join(lacking)}; it has {', '.join(header)}")
        if len(set(header)) < len(header):
            raise InputError(f"{path}: a column is listed twice; keep one")
        for row in table:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if len(cells) < len(header) or any(cells[len(header) :]):
                raise InputError(
                    f"{path}, line {table.line_num}: {len(cells)} cells under {len(header)} columns"
                )
            yield table.line_num, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise InputError(f"{path}, line {table.line_num}: not a CSV table ({error})") from None
