"""How a user's mistake is told: one line that names the file, row or value and the mend; exit code 2."""

import sys
from collections.abc import Callable
from typing import NoReturn


class InputError(ValueError):
    """Something the user gave is wrong: a file, a row, a value, an argument. The message is one line."""


class DamagedError(InputError):
    """A file of ours that this process cannot read; of several processes, others may have read it whole."""


def first_line(error: BaseException) -> str:
    """What an exception of some library says, without what follows; its type where it says nothing."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def tell(error: InputError) -> None:
    """Prints it as one line on stderr."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def refuse(message: str) -> NoReturn:
    """For `parser.error`: argparse's usage and message are several lines."""
    raise InputError(f"{message}; --help lists the flags")


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's `main`; an `InputError` becomes one line on stderr and exit code 2.

    Anything else is a defect of ours and keeps its traceback.
    """
    try:
        main()
    except InputError as error:
        tell(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; what is finished stays, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
