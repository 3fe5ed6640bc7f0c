import errno
import json
import os
from typing import ClassVar

import jax
import pytest

from chexseg_jax.training.loggers import LOGGERS, open_loggers, read_metrics


def test_a_resumed_training_truncates_its_lines(tmp_path):
    with open_loggers(tmp_path, first_step=1) as log:
        for step in (10, 20, 30):
            log(step, {"loss": 1 / step})
    with open_loggers(tmp_path, first_step=21) as log:
        log(30, {"loss": 7.0})
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 0.1), (20, 0.05), (30, 7)]


def test_event_files_on_a_full_disk_end_the_training_and_no_thread_hides_it(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with open_loggers(tmp_path, first_step=1) as log, pytest.raises(OSError, match="No space left"):
        log(10, {"loss": 1.0})


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with open_loggers(tmp_path, first_step=5) as log:
        log(10, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


class Mine:
    """A user's tracker: it keeps everything in memory."""

    opened: ClassVar[list] = []

    def __init__(self, directory):
        self.directory, self.calls = directory, []
        self.opened.append(self)

    def truncate(self, step):
        self.calls.append(("truncate", step))

    def write(self, step, scalars):
        self.calls.append(("write", step, dict(scalars)))

    def close(self):
        self.calls.append(("close",))


def test_a_tracker_of_ones_own_takes_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(LOGGERS, "mine", Mine)
    with open_loggers(tmp_path / "training", first_step=4) as log:
        log(4, {"loss": 0.5})
    (mine,) = Mine.opened
    assert mine.directory == tmp_path / "training"
    assert mine.calls == [("truncate", 3), ("write", 4, {"loss": 0.5}), ("close",)]
    assert (tmp_path / "training" / "metrics.jsonl").exists()
