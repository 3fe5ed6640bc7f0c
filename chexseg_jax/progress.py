"""Progress of long work: what, how far, how long yet. A live bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0

#: `advance(done, note)`: the count finished so far, and a short text such as "loss 0.41".
Advance = Callable[[int, str], None]


_muted = False


def mute() -> None:
    """Shows no more progress: of several processes that do the same, one tells."""
    global _muted
    _muted = True


def say(text: str) -> None:
    """Prints one line of progress to stderr at once."""
    if _muted:
        return
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Shows how far `what` has come; yields `advance(done, note)`."""
    if sys.stderr.isatty() and not _muted:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=note)
        return

    start = last = time.monotonic()
    first: int | None = None

    def advance(done: int, note: str = "") -> None:
        nonlocal last, first, start
        now = time.monotonic()
        if (
            first is None
        ):  # a resumed run starts part way, and its first step compiles: leave both out of the rate
            first, start = done, now
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        rate = (done - first) / (now - start) if done > first else 0.0
        left = f"{(total - done) / rate:.0f} s left" if rate else "time left not known yet"
        say(f"{what}: {done}/{total}, {left}{', ' + note if note else ''}")

    yield advance


def track(items: Iterable, what: str, total: int) -> Iterator:
    """Iterates over `items`, showing how many are done."""
    with progress(what, total) as advance:
        for done, item in enumerate(items, start=1):
            yield item
            advance(done, "")
