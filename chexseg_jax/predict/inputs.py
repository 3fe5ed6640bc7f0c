"""Find the radiographs that a user gives: as files, below folders, or listed in a table."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from chexseg_jax.data import dicom
from chexseg_jax.data.layout import image_id, patient_folders
from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError
from chexseg_jax.progress import say

#: Suffixes of the files that are taken from a folder; a DICOM file may have any.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", *dicom.SUFFIXES)
#: Folders that programs leave beside images; names with a dot in front are skipped too.
_LITTER = ("__MACOSX",)


def find_images(paths: Sequence[Path], out: Path | None = None) -> dict[str, Path]:
    """Map image ids to files, for image files, for the images below folders, and for the rows of tables.

    Ids are those of a table (see `image_id`) by the path below the folder given: the root of a data set gives
    `patient_study_view`, a flat folder or a single file the file's name. Folders named as CheXpert's,
    `patient*/study*`, count wherever the path given starts. Links are followed; a cycle of them ends. One line counts
    the files of folders that are no images.

    Args:
      paths: images, folders, and CSV files with a column Path, relative to the file or starting with a download's name.
      out: the folder of results; it is left out where it lies below a folder given.

    Raises:
      InputError: for a missing file, a folder without images, a table without a column Path, two images with the same
        id, a name that is not UTF-8, or an image that lies in `out`.
    """
    images: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for path in paths:
        for file, parts in _files(path, out, others):
            if (name := image_id(parts)) in images:
                raise InputError(f"{file}: has the id of {images[name]}, {name}; predict them separately")
            if name.encode(errors="replace").decode() != name:
                raise InputError(f"{str(file)!r}: its name is not UTF-8; rename it")
            if out and out.resolve() in file.absolute().parents:
                raise InputError(f"--out {out}: holds the radiograph {file}; give another folder")
            images[name] = file
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


def _files(path: Path, out: Path | None, others: Counter[str]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the images that a path stands for, with the parts that give their ids; count other files by suffix."""
    if path.suffix.lower() == ".csv" and path.is_file():
        yield from _listed(path)
    elif path.is_dir():
        found = False
        for file in _walk(path, out):
            if file.suffix.lower() in _SUFFIXES or is_dicom(file):
                found = True
                yield file, _parts(file, file.relative_to(path).parts)
            else:
                others[file.suffix.lower() or "without suffix"] += 1
        if not found:
            raise InputError(
                f"{path}: a folder without a .jpg, .png, .tif or DICOM file; give a folder of radiographs"
            )
    elif path.is_file():
        yield path, _parts(path, (path.name,))
    else:
        raise InputError(f"{path}: no such image; check the path")


def _walk(folder: Path, out: Path | None, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files below a folder, sorted."""
    here = folder.resolve()
    if here in above or (above and out and here == out.resolve()):
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name in _LITTER:
            continue
        if entry.is_dir():
            yield from _walk(entry, out, (*above, here))
        else:
            yield entry


def _parts(file: Path, below: tuple[str, ...]) -> tuple[str, ...]:
    """What gives an image's id: `patient/study/view` where the folders are named so, else the path `below` a folder."""
    parts = file.absolute().parts[-3:]
    if not (parts[0].startswith("patient") and parts[1].startswith("study")):
        parts = below
    # A DICOM file may be named 1.2.840.1: the last number is no suffix.
    return parts if file.suffix.lower() in _SUFFIXES else (*parts[:-1], f"{parts[-1]}.dcm")


def _listed(table: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the images of a table's rows; they need not exist."""
    rows = csv.DictReader(io.StringIO(read_text(table, "a CSV file with a column Path"), newline=""))
    if "Path" not in (rows.fieldnames or ()):
        raise InputError(f"{table}: no column Path, which names the images; its separator must be a comma")
    for row in rows:
        parts = PurePosixPath((row["Path"] or "").strip().replace("\\", "/")).parts
        if not parts:
            raise InputError(f"{table}, row {rows.line_num}: Path is blank; give the image's")
        if parts[0] == "/" or ".." in parts:
            file = table.parent.joinpath(*parts)
            yield file, _parts(file, parts[-1:])
        else:
            yield patient_folders(table.parent, parts)[0].joinpath(*parts[-3:]), _parts(Path(*parts), parts)
