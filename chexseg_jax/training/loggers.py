"""Loggers of a training's scalars: JSON lines for programs, TensorBoard for people, and any a user adds."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from chexseg_jax.files import written_aside


class Logger(Protocol):
    """A tracker of scalars; `LOGGERS` holds the classes that every training writes to.

    Args:
      directory: the training's folder, which exists.
    """

    def __init__(self, directory: Path): ...

    def truncate(self, step: int) -> None:
        """Drop everything after `step`, at the start of a training: a resumed one repeats these steps."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record the scalars of one step."""

    def close(self) -> None:
        """Flush and release the tracker."""


class JsonLines:
    """Appends to `metrics.jsonl`, one object a line: {"step": step, name: value, ...}.

    Truncation makes the file of a resumed training equal to that of an uninterrupted one.
    """

    def __init__(self, directory: Path):
        self._path = directory / "metrics.jsonl"

    def truncate(self, step: int) -> None:
        """Drop the lines after `step`."""
        if self._path.exists():
            kept = [line for line in read_metrics(self._path) if line["step"] <= step]
            with written_aside(self._path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append one line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")

    def close(self) -> None:
        """Do nothing: every line is already on disk."""


class TensorBoard:
    """Writes event files to `tensorboard/`.

    In this thread: after a full disk has ended that of `SummaryWriter`, the training waits for it for ever.
    """

    def __init__(self, directory: Path):
        (directory / "tensorboard").mkdir(exist_ok=True)
        self._writer = EventsWriter(str(directory / "tensorboard" / "events"))
        self._flush_at = 0.0

    def truncate(self, step: int) -> None:
        """Do nothing: event files only grow."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        for name, value in scalars.items():
            event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
            self._writer.write_event(event)
        if time.monotonic() >= self._flush_at:
            self._writer.flush()
            self._flush_at = time.monotonic() + 30

    def close(self) -> None:
        """Flush and close the event file, if the disk is not full: what ended the training is the error to tell."""
        with suppress(OSError):
            self._writer.close()


#: Every training writes to all of these; `LOGGERS["mine"] = Mine` adds one. Resumption and reports read "jsonl".
LOGGERS: dict[str, type[Logger]] = {"jsonl": JsonLines, "tensorboard": TensorBoard}


@contextmanager
def open_loggers(directory: Path, *, first_step: int) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Open all loggers for the steps from `first_step`; yield `log(step, scalars)`, which writes to each.

    Only process 0 writes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    loggers = [make(directory) for make in LOGGERS.values()] if jax.process_index() == 0 else []
    for logger in loggers:
        logger.truncate(first_step - 1)

    def log(step: int, scalars: Mapping[str, float]) -> None:
        numbers = {name: float(value) for name, value in scalars.items()}
        for logger in loggers:
            logger.write(step, numbers)

    try:
        yield log
    finally:
        for logger in loggers:
            logger.close()


def read_metrics(path: Path) -> list[dict[str, float | int]]:
    """Read a metrics file; a last line that a kill cut short is dropped."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
