"""Grain pipelines: from random-access sources to batches of the global batch size, sharded by process."""

import os
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np

from chexseg_jax.data.ahead import map_ahead
from chexseg_jax.errors import InputError


def reader_threads() -> int:
    """Threads that read for this process: one per core, at least 4 and at most 8 per device.

    A core reads 5,600 prepared radiographs of 320 px a second for a training and 12,900 in order
    (benchmarks/input_pipeline.py), about what the fastest program is expected to take on one GPU; more threads only
    wait for the disk.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(4, min(cores, 8 * jax.local_device_count()))


def batches(dataset: grain.MapDataset, *, batch_size: int) -> grain.DatasetIterator:
    """This process's part of an endless stream of batches; a checkpointable iterator.

    Global batch b holds the elements [b * batch_size, (b + 1) * batch_size) of the dataset whatever the number
    of processes; process k of n reads the k-th of n equal runs of it, so that the order over the devices of all
    processes is the one that a single process would have.

    Args:
      dataset: endless and random-access (see `mixture`).
      batch_size: global, over all processes.

    Returns:
      A Grain iterator over dicts of stacked arrays; `get_state` and `set_state` go into the checkpoint.
    """
    processes = jax.process_count()
    if batch_size % processes:
        raise InputError(
            f"batch size {batch_size} does not divide over {processes} processes; take a multiple"
        )
    local = dataset.batch(batch_size // processes)[jax.process_index() :: processes]
    # Threads, not processes: prepared arrays are decoded already, and files are read without Python's lock.
    threads = reader_threads()
    return iter(local.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=2 * threads)))


def in_order(source: Any, *, batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """One pass in order, for inference: (batch, number of real rows); the last batch is padded with its last row.

    Threads read some batches ahead.
    """

    def read(start: int) -> tuple[dict[str, np.ndarray], int]:
        rows = [source[i] for i in range(start, min(start + batch_size, len(source)))]
        real = len(rows)
        rows += rows[-1:] * (batch_size - real)
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}, real

    threads = reader_threads()
    return map_ahead(read, range(0, len(source), batch_size), distance=threads, threads=threads)
