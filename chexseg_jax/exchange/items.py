"""What a data set says about its images, and the files of these images, before they become a root."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import ExifTags, Image

from chexseg_jax.data import dicom
from chexseg_jax.data.chexlocalize import Rle
from chexseg_jax.data.layout import image_id
from chexseg_jax.data.text import csv_rows
from chexseg_jax.errors import InputError, first_line
from chexseg_jax.files import expand_home, files_below

#: Suffixes of image files.
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", *dicom.SUFFIXES)


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

    An image is found by its path below the folder, by the end of that path, or by a path that it is the end of: folders
    that differ are those of another image. Suffixes do not count, since tables name .jpg and .dcm where the files are
    .png. Ids as in our tables, `patient64541_study1_view1_frontal`, are found too, wherever folders named so lie, and
    those of a prediction: the path below the folder, joined by `_`.
    """

    def __init__(self, folder: Path, files: Iterable[Path]):
        self.folder = folder
        self.files = sorted(files)
        self._paths: defaultdict[str, list[Path]] = defaultdict(list)
        self._ends: defaultdict[str, list[Path]] = defaultdict(list)
        for file in self.files:
            parts = file.relative_to(folder).parts
            path, *ends = _ends(parts)
            for name in {path, path.replace("/", "_"), image_id(parts)}:
                self._paths[name].append(file)
            for end in ends:
                self._ends[end].append(file)

    @classmethod
    def below(cls, folder: Path, without: Sequence[Path] = ()) -> "Images":
        """All image files below a folder (see `files_below`), but those below `without`, such as masks.

        Raises:
          InputError: for a folder that does not exist or has no image, and a name that is not UTF-8.
        """
        folder = expand_home(folder).absolute()
        files = [
            file
            for file in (files_below(folder) if folder.is_dir() else ())
            if file.suffix.lower() in SUFFIXES
            if not any(file.is_relative_to(other) for other in without)
        ]
        for file in files:
            check_utf8(file.relative_to(folder))
        if not files:
            raise InputError(f"{folder}: no images ({', '.join(SUFFIXES)}); give the folder that holds them")
        return cls(folder, files)

    def find(self, name: str) -> Path | None:
        """The file of an image; None if there is none.

        Raises:
          InputError: if several files could be meant.
        """
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))
        if not parts:
            return None
        path, *ends = _ends(parts)
        if is_chexpert(parts):
            ends.insert(0, "_".join((*parts[-3:-1], ends[-1])))
        lists = (self._paths.get(path), self._ends.get(path), *map(self._paths.get, ends))
        found = next(filter(None, lists), [])
        found = [file for file in found if file.name == parts[-1]] or found
        if len(found) > 1:
            some = ", ".join(str(file.relative_to(self.folder)) for file in found[:2])
            raise InputError(
                f"{name}: may be any of {len(found)} images, such as {some}; name its folder too"
            )
        return found[0] if found else None


def _ends(parts: Sequence[str]) -> list[str]:
    """A path without its suffix, and its ends, the longest first."""
    stem, dot, suffix = parts[-1].rpartition(".")
    stem = stem if dot and f".{suffix.lower()}" in SUFFIXES else parts[-1]
    return ["/".join((*parts[at:-1], stem)) for at in range(len(parts))]


def is_chexpert(parts: Sequence[str]) -> bool:
    """Whether a path ends in folders named as CheXpert's, `patient*/study*/view`."""
    return len(parts) > 2 and parts[-3].startswith("patient") and parts[-2].startswith("study")


def check_utf8(file: Path) -> None:
    """Raise an `InputError` for a name that no table can hold."""
    name = str(file)
    if name.encode(errors="replace").decode() != name:
        raise InputError(f"{name!r}: its name is not UTF-8; rename it")


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels of an image that masks are drawn on; a DICOM file's are stored upright.

    Raises:
      InputError: for an image that cannot be opened, or that viewers turn by its EXIF orientation: annotation programs
        differ on whether its masks are turned too.
    """
    if path.suffix.lower() in dicom.SUFFIXES:
        return dicom.read_size(path)
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
            size = image.height, image.width
    except Exception as error:  # Pillow's readers raise whatever a damaged or too large file leads them to
        reason = first_line(error)
        raise InputError(f"{path}: not a readable image ({reason}); leave it out or get it again") from None
    if turned:
        raise InputError(
            f"{path}: has an EXIF orientation, so its masks may be turned or not; save it upright and annotate that"
        )
    return size


def read_rows(path: Path, columns: Iterable[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV table with their line numbers; cells are stripped, blank rows skipped.

    Raises:
      InputError: for a file that is missing, not a table, or lacks one of `columns`, and a row with other cells.
    """
    table = csv_rows(path, "a CSV table")
    header = [name.strip() for name in next(table, (1, []))[1]]
    while header and not header[-1]:  # Excel's tail of commas
        header.pop()
    if lacking := [name for name in columns if name not in header]:
        raise InputError(f"{path}: no column {', '.join(lacking)}; it has {', '.join(header)}")
    if len(set(header)) < len(header):
        raise InputError(f"{path}: a column is listed twice; keep one")
    for line, row in table:
        cells = [cell.strip() for cell in row]
        if len(cells) < len(header) or any(cells[len(header) :]):
            raise InputError(f"{path}, line {line}: {len(cells)} cells under {len(header)} columns")
        yield line, dict(zip(header, cells, strict=False))
