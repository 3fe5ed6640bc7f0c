import os
from threading import Barrier

import jax
import numpy as np
import pytest

from chexseg_jax.data import pipeline
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches, in_order, reader_threads
from chexseg_jax.errors import InputError


class Squares:
    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict:
        return {"row": np.int64(row), "square": np.int64(row) ** 2}


def take(iterator, count: int) -> list[list[int]]:
    return [next(iterator)["row"].tolist() for _ in range(count)]


def test_a_restored_iterator_goes_on_where_it_was_with_any_number_of_threads(monkeypatch):
    stream = shuffled(Squares(10), seed=0)
    first = batches(stream, batch_size=4)
    take(first, 7)
    state = first.get_state()
    expected = take(first, 5)
    monkeypatch.setattr(pipeline, "reader_threads", lambda: 9)
    second = batches(stream, batch_size=4)
    second.set_state(state)
    assert take(second, 5) == expected


def test_processes_split_each_global_batch_in_order(monkeypatch):
    stream = shuffled(Squares(10), seed=0)
    whole = take(batches(stream, batch_size=6), 5)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    parts = []
    for index in range(3):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(take(batches(stream, batch_size=6), 5))
    assert [[row for part in rows for row in part] for rows in zip(*parts, strict=True)] == whole


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(InputError, match="batch size 6 does not divide over 4 processes"):
        batches(shuffled(Squares(10), seed=0), batch_size=6)


@pytest.mark.parametrize(("cores", "devices", "threads"), [(2, 1, 4), (16, 1, 8), (16, 8, 16), (128, 8, 64)])
def test_readers_are_as_many_as_cores_and_devices_have_use_for(cores, devices, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    assert reader_threads() == threads


class Together(Squares):
    """Two rows that are there only once both are asked for."""

    def __init__(self):
        super().__init__(2)
        self.both = Barrier(2, timeout=60)

    def __getitem__(self, row: int) -> dict:
        self.both.wait()
        return super().__getitem__(row)


def test_in_order_reads_several_batches_at_once():
    assert [batch["row"].tolist() for batch, _ in in_order(Together(), batch_size=1)] == [[0], [1]]


def test_in_order_pads_the_last_batch():
    parts = list(in_order(Squares(5), batch_size=2))
    assert [real for _, real in parts] == [2, 2, 1]
    assert [batch["row"].tolist() for batch, _ in parts] == [[0, 1], [2, 3], [4, 4]]
    assert parts[-1][0]["square"].tolist() == [16, 16]
