"""Where a training writes its numbers: JSON lines for programs, TensorBoard event files for people."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter


class MetricsLog:
    """Appends scalars to `metrics.jsonl` and to a TensorBoard file in one folder.

    A resumed training calls `truncate` first: lines past the step it resumes from are dropped, so that the
    file reads as if the training had never stopped.

    Args:
      directory: is made.
      writes: False on all processes but one.
    """

    def __init__(self, directory: Path, *, writes: bool = True):
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "metrics.jsonl" if writes else Path(os.devnull)
        self._board = SummaryWriter(logdir=str(directory / "tensorboard"), write_to_disk=writes)

    def truncate(self, step: int) -> None:
        """Drops what was written after `step`."""
        if self._path.exists():
            kept = [line for line in read_metrics(self._path) if line["step"] <= step]
            self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One line: {"step": step, name: value, ...}."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **{k: float(v) for k, v in scalars.items()}}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(name, float(value), step)

    def close(self) -> None:
        """Flushes the TensorBoard file."""
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics file; a last line cut short by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
