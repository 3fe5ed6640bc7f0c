"""Progress of long work: a live bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0
_T = TypeVar("_T")

#: `advance(done, note)`: the number finished so far, and a short text such as "loss 0.41".
Advance = Callable[[int, str], None]

_muted = False


def mute() -> None:
    """Show no more progress; of several processes, only process 0 does."""
    global _muted
    _muted = True


def say(text: str) -> None:
    """Print one line to stderr at once."""
    if _muted:
        return
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Show the progress of `title`; yield `advance(done, note)`."""
    if sys.stderr.isatty() and not _muted:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
        return

    start = last = time.monotonic()
    first: int | None = None

    def advance(done: int, note: str) -> None:
        nonlocal last, first, start
        now = time.monotonic()
        if first is None:  # keep earlier work of a resumed run, and compilation, out of the rate
            first, start = done, now
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        rate = (done - first) / (now - start) if done > first else 0.0
        left = f"{(total - done) / rate:.0f} s left" if rate else "time left unknown"
        say(f"{title}: {done}/{total}, {left}{', ' + note if note else ''}")

    yield advance


def track(items: Iterable[_T], title: str, total: int) -> Iterator[_T]:
    """Iterate over `items` and show how many are done."""
    with progress(title, total) as advance:
        for done, item in enumerate(items, start=1):
            yield item
            advance(done, "")
