"""Files that are either complete or absent: written aside, then renamed."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from chexseg_jax.errors import InputError


def aside_of(path: Path) -> Path:
    """Return a name beside `path` that is unique to this process: on a shared disk, process ids repeat."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")


@contextmanager
def written_aside(path: str | Path) -> Iterator[TextIO]:
    """Open a text file (UTF-8, line ends unchanged) that is renamed to `path` once it is complete.

    It is written beside `path`. An error removes it and leaves `path` as it was. Parent folders are created.

    Example:
      >>> with written_aside("out/scores.csv") as file:  # doctest: +SKIP
      ...     file.write("task,iou\\n")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def make_folder(path: Path, name: str) -> None:
    """Make a folder that a user named, with its parents.

    Raises:
      InputError: for a path that is a file or cannot be written; `name` is the flag.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "is a file; give a folder" if path.is_file() else f"{error.strerror}; give a writable folder"
        raise InputError(f"{name}={path}: {reason}") from None
