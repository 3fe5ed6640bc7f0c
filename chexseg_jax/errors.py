"""User-facing errors: one line naming the file, row or value, and the fix; exit code 2."""

import argparse
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

#: Characters of an error's line: a list of all tasks or labels fits.
_LONGEST = 1200
_FREE, _ALLOW = "free some space", "allow this user to read and write it, or give another folder"
#: What a file system refuses, and the fix.
_REFUSALS = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EROFS: _ALLOW,
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
}


class InputError(ValueError):
    """A file, row, value or argument of the user is wrong. The message is one line."""

    exit_code = 2  # nothing was done


class PartlyDoneError(InputError):
    """Some of several inputs could not be used, and are named; all others are done."""

    exit_code = 1


class DamagedError(InputError):
    """A file that this program wrote and this process cannot read; other processes may have read it."""


class MissingWeightsError(InputError):
    """Public weights are not on this machine and cannot be downloaded; a table continues without them."""


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Name a file, or a place in one, at the beginning of each `InputError`."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


class DiskError(InputError):
    """The file system refuses to read or to write: it is full, read-only or another user's."""


@contextmanager
def disk_errors(path: Path | None = None, kept: Callable[[], str] = str) -> Iterator[None]:
    """Turn a refusal of the file system, a library's too, into a `DiskError`.

    Args:
      path: the file or folder to name if the error names none, as those of writing do.
      kept: names what the rerun starts from.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not (refusal := _refusal(error)):
            raise
        name = getattr(error, "filename", None) or path
        at, resumed = f"{name}: " if name else "", f" to resume from {kept()}" if kept() else ""
        fix = f"{_REFUSALS[refusal]}, and rerun the command{resumed}"
        raise DiskError(f"{at}{os.strerror(refusal)}; {fix}") from error


def _refusal(error: BaseException) -> int | None:
    """The number of a file system's refusal; libraries in C++ put its text into errors of their own."""
    if isinstance(error, OSError) and error.errno:  # without a file's name, it may be a socket's
        known = error.errno in _REFUSALS and (error.filename or _REFUSALS[error.errno] == _FREE)
        return error.errno if known else None
    text = str(error)
    if re.search(r"\d+ requested and \d+ written", text):  # by NumPy, of a full disk
        return errno.ENOSPC
    return next((number for number in _REFUSALS if os.strerror(number) in text), None)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop.

    Args:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


#: What asks a program to stop: Ctrl-C, a scheduler's last word, and SLURM's warning (`--signal=USR1@120`).
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def stop_signals(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle `STOP_SIGNALS` by `handle` meanwhile; outside the main thread, which alone may, leave them."""
    here = STOP_SIGNALS if threading.current_thread() is threading.main_thread() else ()
    old = {number: signal.signal(number, handle) for number in here}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    raise Stopped(number)


def leave(code: int) -> NoReturn:
    """End this process at once: threads of libraries may crash when Python ends with them alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's exception, or its type if the message is empty."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def tell(error: InputError) -> None:
    """Print the error as one line on stderr, without the middle of a value that fills screens."""
    line = " ".join(str(error).split())
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 3 :]}"
    print(f"error: {line}", file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """A parser whose errors take one line; argparse would print several."""

    def error(self, message: str) -> NoReturn:
        """Raise an `InputError`."""
        raise InputError(f"{message}; --help lists the flags")


def _tell_unraisable(ignored: Any) -> None:
    """Print as Python does, but for the reads that TensorStore cancels after one that failed, which is reported."""
    if str(ignored.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(ignored)


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; an `InputError` becomes one line on stderr and exit code 2, or 1 if the rest is done.

    A signal of `STOP_SIGNALS` becomes one line too, and exit code 128 + its number. Any other exception is a bug and
    keeps its traceback.
    """
    hook, sys.unraisablehook = sys.unraisablehook, _tell_unraisable
    try:
        with stop_signals(_stop), disk_errors():
            main()
    except InputError as error:
        tell(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        print(
            "interrupted; rerun the command: a run or a prediction resumes, all others start again",
            file=sys.stderr,
        )
        leave(128 + (error.number if isinstance(error, Stopped) else signal.SIGINT))
    finally:
        sys.unraisablehook = hook
