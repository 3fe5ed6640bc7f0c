"""Find the radiographs that a user gives: as files, below folders, or listed in a table."""

import errno
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from chexseg_jax.data import dicom
from chexseg_jax.data.layout import locate_images
from chexseg_jax.data.text import csv_rows
from chexseg_jax.errors import InputError
from chexseg_jax.files import files_below
from chexseg_jax.progress import say

#: Suffixes of the files that are taken from a folder; a DICOM file may have any.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", *dicom.SUFFIXES)


def find_images(paths: Sequence[Path], out: Path | None = None) -> dict[str, Path]:
    """Map image ids to files, for image files, for the images below folders, and for the rows of tables.

    An id is the path below the folder given, without the suffix, joined by `_`; that of a single file is its name.
    Folders named as CheXpert's, `patient*/study*`, give `patient_study_view` wherever the path given starts, and so do
    the last three parts of a table's relative paths. A table's absolute paths count below their common parent. A file
    given twice is taken once. Links are followed; a cycle of them ends. One line counts the files of folders that are
    no images; folders of predictions below a folder given are left out.

    Args:
      paths: images, folders, and CSV files with a column Path, relative to the file or starting with a download's name.
      out: the folder of results; it is left out where it lies below a folder given.

    Raises:
      InputError: for a missing file, a folder without images, a table without a column Path, two images with the same
        id, a name that is not UTF-8, or an image that lies in `out`.
    """
    images: dict[str, Path] = {}
    others: Counter[str] = Counter()
    places: set[str] = set()
    results = out and out.resolve()
    repeated = 0
    for path in paths:
        for file, name in _files(path, out, others):
            if os.path.abspath(file) in places or (
                name in images and images[name].resolve() == file.resolve()
            ):
                repeated += 1
                continue
            if name in images:
                raise InputError(
                    f"{file}: has the id of {images[name]}, {name}; rename one, or predict them separately"
                )
            if name.encode(errors="replace").decode() != name:
                raise InputError(f"{str(file)!r}: its name is not UTF-8; rename it")
            if results and (results in file.absolute().parents or results in file.resolve().parents):
                raise InputError(f"--out {out}: holds the radiograph {file}; give another folder")
            places.add(os.path.abspath(file))
            images[name] = file
    if repeated:
        say(f"{repeated} images are given twice and taken once")
    if others:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(others.items()))
        say(f"left out {others.total()} files that are no images: {kinds}")
    return images


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM, see `data.dicom.is_dicom`; False if it cannot be read."""
    try:
        with file.open("rb") as content:
            return dicom.is_dicom(content.read(132), file)
    except OSError:
        return False


@contextmanager
def naming_long_ids(image: Path) -> Iterator[None]:
    """Turn the refusal of a file's name, which is an image's id, into an `InputError` that names the image."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InputError(
            f"{image}: its id is too long for a file's name; shorten its name or its folders'"
        ) from None


def _files(path: Path, out: Path | None, others: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Yield the images that a path stands for, with their ids; count other files by suffix."""
    if path.suffix.lower() == ".csv" and path.is_file():
        yield from _listed(path)
    elif path.is_dir():
        found = False
        for file in files_below(path, without=out):
            if file.suffix.lower() in _SUFFIXES or is_dicom(file):
                found = True
                yield file, _id(file, file.relative_to(path).parts)
            else:
                others[file.suffix.lower() or "without suffix"] += 1
        if not found:
            raise InputError(
                f"{path}: a folder without a .jpg, .png, .tif or DICOM file; give a folder of radiographs"
            )
    elif path.is_file():
        yield path, _id(path, (path.name,))
    else:
        raise InputError(f"{path}: no such image; check the path")


def _id(file: Path, below: Sequence[str]) -> str:
    """An image's id: `patient_study_view` where the folders are named so, else the path `below` a folder."""
    parts = file.absolute().parts[-3:]
    *folders, view = parts if parts[0].startswith("patient") and parts[1].startswith("study") else below
    # A DICOM file may be named 1.2.840.1: the last number is no suffix.
    return "_".join((*folders, Path(view).stem if file.suffix.lower() in _SUFFIXES else view))


def _listed(table: Path) -> Iterator[tuple[Path, str]]:
    """Yield the images of a table's rows; they need not exist."""
    locate = locate_images(table.parent)
    elsewhere: list[Path] = []
    for parts in _paths(table):
        if parts[0].startswith("/") or ".." in parts:
            elsewhere.append(table.parent.joinpath(*parts))
        else:
            file = locate(parts)
            yield file, _id(file, parts[-3:])
    places = [Path(os.path.abspath(file)) for file in elsewhere]
    common = os.path.commonpath([place.parent for place in places]) if places else ""
    for file, place in zip(elsewhere, places, strict=True):
        yield file, _id(place, place.relative_to(common).parts)


def _paths(table: Path) -> Iterator[tuple[str, ...]]:
    """Yield the parts of each row's path."""
    rows = csv_rows(table, "a CSV file with a column Path")
    header = [name.strip() for name in next(rows, (1, []))[1]]
    if "Path" not in header:
        raise InputError(f"{table}: no column Path, which names the images; it has {', '.join(header)}")
    at, line = header.index("Path"), 0
    for line, cells in rows:
        path = cells[at].strip() if at < len(cells) else ""
        parts = PurePosixPath(path.replace("\\", "/")).parts
        if not parts:
            raise InputError(f"{table}, line {line}: Path is blank; give the image's")
        yield parts
    if not line:
        raise InputError(f"{table}: lists no image below its header")
