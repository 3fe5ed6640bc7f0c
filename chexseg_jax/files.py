"""Files that are either whole or not there: written aside, then renamed."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def aside_of(path: Path) -> Path:
    """A name beside `path` that is this process's: on shared disks machines and containers repeat numbers."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")


@contextmanager
def written_aside(path: str | Path) -> Iterator[TextIO]:
    """A text file (UTF-8, line ends as given) that takes the name `path` only once it is complete.

    It is written beside `path` under a name of this process; an error on the way removes it and leaves what
    was at `path` as it was. Parent folders are made.

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
