"""Files that are either complete or absent, written aside and then renamed; checksums."""

import fcntl
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TextIO

from chexseg_jax.errors import InputError

#: Folder in the results of `chexseg predict`, with the records of finished images.
PREDICTED = ".predict"


def aside_of(path: Path) -> Path:
    """Return a name beside `path` that is unique to this process: on a shared disk, process ids repeat."""
    unique = f".{platform.node()}.{os.getpid()}.part"
    # A file system allows 255 bytes. The end of a long name is its own; the start may be a study's, as in DICOM.
    return path.with_name(
        "." + os.fsdecode(os.fsencode(path.name)[len(os.fsencode(unique)) - 254 :]) + unique
    )


def files_below(folder: Path, *, without: Path | None = None) -> Iterator[Path]:
    """Yield the files below a folder, sorted; links are followed, and a cycle of them ends.

    Names with a dot in front and folders `__MACOSX`, which programs leave beside a user's files, are skipped. So are a
    folder `without` and folders of predictions below the first.
    """
    yield from _files_below(folder, without.resolve() if without else None, ())


def _files_below(folder: Path, without: Path | None, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above or (above and (here == without or (folder / PREDICTED).is_dir())):
        return
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        if entry.is_dir():
            yield from _files_below(entry, without, (*above, here))
        else:
            yield entry


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


@contextmanager
def new_folder(path: Path, *, replacing: bool = False) -> Iterator[Path]:
    """Yield a folder that is renamed to `path` once it is complete; an error removes it.

    Args:
      path: the folder.
      replacing: delete an older folder of that name, once the new one is complete.

    Raises:
      InputError: if `path` cannot be written, or exists and is not to be replaced.
    """
    if os.path.lexists(path) and not replacing:
        raise InputError(f"{path}: already exists; remove it or choose another name")
    part = aside_of(path)
    try:
        shutil.rmtree(part, ignore_errors=True)  # left by a killed process of the same number
        part.mkdir(parents=True)
        yield part
        if replacing and path.exists():
            shutil.rmtree(path)
        part.rename(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be written ({reason}); give another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def remove_asides(folder: Path) -> None:
    """Delete what killed processes left half-written below a folder that no other process writes to."""
    for path in folder.rglob(".*.part"):
        path.unlink() if path.is_file() else shutil.rmtree(path)


class Lock:
    """An exclusive lock on a file, among processes and threads; it ends with its process.

    As `filelock` has it, but that retries for ever, or falls back to files that a kill leaves behind, where a file
    system has no locks. Two runs would then wait for nobody, or write one artifact together.

    Args:
      path: the file, which is created and stays.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Return whether this has the lock now; False while another has it.

        Raises:
          InputError: if the file system has no locks.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):  # else somebody deleted the file
                self._descriptor, descriptor = descriptor, -1
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError as error:
            raise InputError(
                f"{self.path}: this file system has no locks ({error.strerror}), which keep two calls from writing one "
                "file; give a --workdir or --out on one that has, such as a local disk"
            ) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return self._descriptor is not None

    def wait(self) -> None:
        """Return once this has the lock."""
        while not self.acquire():
            time.sleep(0.2)

    def release(self) -> None:
        """Let another have the lock; do nothing without it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def give_folder(source: Path, target: Path) -> None:
    """Make `target` a folder with the files of `source`, which never change: hard links, or copies without links.

    The folder stays whole when it is copied or `source` is deleted, and takes no space where there are links.
    """
    aside, old = aside_of(target), aside_of(target.with_name(f"{target.name}.old"))
    try:
        for file in source.rglob("*"):
            if file.is_file():
                path = aside / file.relative_to(source)
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file, path)
                except OSError:  # no hard links here, or a file of another user
                    shutil.copyfile(file, path)
        if os.path.lexists(target):  # it may be a link that an earlier version made
            target.rename(old)
        aside.rename(target)
    except OSError:
        if not target.is_dir():  # else another process made the same folder meanwhile
            raise
    finally:
        for path in (aside, old):
            path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)


def expand_home(path: str | Path) -> Path:
    """A user's path with its `~` replaced, which the shell leaves after `=` and `:`.

    Raises:
      InputError: if this user has no home directory, as in some containers, or the other user does not exist.
    """
    expanded = Path(os.path.expanduser(path))
    if str(expanded).startswith("~"):
        raise InputError(f"{path}: {expanded.parts[0]} is no home directory here; give the whole path")
    return expanded


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


def checksums(folder: Path, *, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """The sha256 of every file below a folder by its relative path; links are not followed.

    Args:
      folder: the folder.
      leave_out: patterns of names, of files and folders.
    """

    def kept(names: list[str]) -> list[str]:
        return [name for name in sorted(names) if not any(fnmatch(name, pattern) for pattern in leave_out)]

    sums = {}
    for place, folders, names in os.walk(folder):
        folders[:] = kept(folders)
        for path in (Path(place, name) for name in kept(names)):
            sums[str(path.relative_to(folder))] = sha256(path)
    return sums


def damaged(folder: Path, sums: Mapping[str, str]) -> str | None:
    """The first file that is missing or whose content is not that of its checksum; None if all are sound."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: sha256(folder / name), sums)
        return next((name for name, value in zip(sums, found, strict=True) if value != sums[name]), None)


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal digits; "" for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
