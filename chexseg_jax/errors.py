"""User-facing errors: one line naming the file, row or value, and the fix; exit code 2."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

#: Characters of an error's line: a list of all tasks or labels fits.
_LONGEST = 1200


class InputError(ValueError):
    """A file, row, value or argument of the user is wrong. The message is one line."""


class DamagedError(InputError):
    """A file that this program wrote and this process cannot read; other processes may have read it."""


class MissingWeightsError(InputError):
    """Public weights are neither on this machine nor to be had from here; a table goes on without them."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name a file at the beginning of each `InputError`."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{path}: {error}") from None


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


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; an `InputError` becomes one line on stderr and exit code 2.

    Any other exception is a bug and keeps its traceback.
    """
    try:
        main()
    except InputError as error:
        tell(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; rerun the command to resume, finished stages are reused", file=sys.stderr)
        sys.exit(130)
