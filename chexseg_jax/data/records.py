"""Rows of arrays on disk, for any number of rows: written in chunks by any number of processes, read at random.

A column is a folder with `index.json` (how many rows; shape, dtype and code of one) and its chunks, ArrayRecord files
of about 1024 rows at most. A chunk is written aside and renamed when it is whole: it is the unit of work, of
resumption and of sharing. Nothing has to be merged, since a reader opens the chunks, whoever wrote them.

Masks are stored as run lengths over their bit-planes: one code for the ten masks of an image. On the phantom's masks at
320 px that is 0.8 kB an image once compressed, where COCO's ten codes are 1.1 kB and eight to twelve times slower to
write and to read.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Int, Shaped

from chexseg_jax.data.ahead import ahead
from chexseg_jax.errors import DamagedError, first_line
from chexseg_jax.processes import wait_for_all

#: How a row becomes a record: its bytes, or the lengths and the values of its runs (for masks).
Code = Literal["raw", "runs"]

_CHUNK = 1024
#: A small set has at least so many chunks (while it has the rows), so that processes can share it too.
_SHARES = 16
#: Readers kept open, each with a file handle (of which a process usually may have 1024).
_OPEN = 512


@dataclass(frozen=True, eq=False)
class Records(Sequence):
    """Rows of a column, read when they are indexed: by int [*shape], by slice or array of ints [M, *shape].

    Indexing takes what NumPy's would along the first axis. Rows may be read from many threads, and the object pickled
    for other processes.

    Attributes:
      folder: of the column.
      chunk: rows a chunk holds, the last excepted.
      written: rows in all chunks.
      item: shape of one row.
      dtype: of all.
      code: how a row is stored.
      rows: which of the written rows these are.
    """

    folder: Path
    chunk: int
    written: int
    item: tuple[int, ...]
    dtype: np.dtype
    code: Code
    rows: Int[np.ndarray, " N"]

    @classmethod
    def open(cls, folder: Path) -> "Records":
        """All rows of a column.

        Raises:
          DamagedError: naming the folder or the chunk that is not there.
        """
        try:
            index = json.loads((folder / "index.json").read_text())
        except FileNotFoundError:
            raise DamagedError(f"{folder}: no records (no index.json); {_mend(folder)}") from None
        count, chunk = index["rows"], index["chunk"]
        for k in range(-(-count // chunk)):
            if not _path(folder, k).exists():
                raise DamagedError(f"{_path(folder, k)}: no such chunk of records; {_mend(folder)}")
        shape, dtype = tuple(index["shape"]), np.dtype(index["dtype"])
        return cls(folder, chunk, count, shape, dtype, index["code"], np.arange(count))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of a row)."""
        return (len(self.rows), *self.item)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " M"]) -> "Records":
        """The given rows of these, still on disk."""
        return replace(self, rows=self.rows[np.asarray(rows, int)])

    def __getitem__(self, rows) -> Shaped[np.ndarray, "..."]:
        chosen = self.rows[rows]
        if chosen.ndim == 0:
            return self._read(*divmod(int(chosen), self.chunk))[0]
        values = np.empty((len(chosen), *self.item), self.dtype)
        chunks, places = np.divmod(chosen, self.chunk)
        for k in np.unique(chunks):
            here = np.flatnonzero(chunks == k)
            for i, value in zip(here, self._read(int(k), *places[here].tolist()), strict=True):
                values[i] = value
        return values

    def _read(self, chunk: int, *places: int) -> list[np.ndarray]:
        path = _path(self.folder, chunk)
        reader = _reader(path, min(self.chunk, self.written - chunk * self.chunk))
        try:
            records = reader.read(list(places))
        except RuntimeError as error:
            raise DamagedError(f"{path}: damaged ({first_line(error)}); {_mend(self.folder)}") from None
        return [_decode(record, self.item, self.dtype, self.code) for record in records]


def write_rows(
    folder: Path,
    count: int,
    columns: Mapping[str, Code],
    make: Callable[[Int[np.ndarray, " M"]], Iterable[Mapping[str, np.ndarray]]],
    *,
    batch: int = 1,
) -> dict[str, Records]:
    """Writes `count` rows of some columns, this process its share of the chunks; goes on where a kill left off.

    Chunk k is process k % n's. Encoding and writing go on while `make`, in a thread of its own, is at the next rows.

    Args:
      folder: takes one folder a column; on a file system that all processes see.
      count: rows in all.
      columns: their names and codes.
      make: given the rows that this process has still to write, in order, yields each one's arrays by column. All
        rows of a column have the same shape and dtype.
      batch: rows that `make` computes together. Chunks begin where batches do: what goes on after a kill has the same
        batches, and to the last bit the same rows.

    Returns:
      The columns, complete: the function returns when every process has written its share.
    """
    chunk = min(_CHUNK, max(1, -(-count // _SHARES)))
    chunk = -(-chunk // batch) * batch
    chunks = {k: np.arange(k * chunk, min((k + 1) * chunk, count)) for k in range(-(-count // chunk))}
    unfinished = [
        k
        for k in range(jax.process_index(), len(chunks), jax.process_count())
        if not all(_whole(_path(folder / name, k), len(chunks[k])) for name in columns)
    ]
    if unfinished:
        made = ahead(make(np.concatenate([chunks[k] for k in unfinished])))
        for k in unfinished:
            rows = itertools.islice(made, len(chunks[k]))
            _write_chunk(folder, k, len(chunks[k]), columns, rows, {"rows": count, "chunk": chunk})
    wait_for_all(f"{folder.name} is written")
    return {name: Records.open(folder / name) for name in columns}


def _write_chunk(
    folder: Path,
    k: int,
    length: int,
    columns: Mapping[str, Code],
    rows: Iterable[Mapping[str, np.ndarray]],
    index: dict[str, int],
) -> None:
    writers: dict[str, ArrayRecordWriter] = {}
    kinds: dict[str, tuple] = {}
    asides = {name: _path(folder / name, k).with_suffix(".part") for name in columns}
    written = 0
    for row in rows:
        written += 1
        for name, code in columns.items():
            value = np.asarray(row[name])
            if name not in writers:
                kinds[name] = value.shape, value.dtype
                asides[name].parent.mkdir(parents=True, exist_ok=True)
                writers[name] = ArrayRecordWriter(str(asides[name]), _options(value.dtype))
                if k == 0:  # it has one writer
                    kind = {"shape": value.shape, "dtype": value.dtype.str, "code": code}
                    (folder / name / "index.json").write_text(json.dumps(index | kind))
            if (value.shape, value.dtype) != kinds[name]:
                raise ValueError(f"{name}: a row of {value.shape} {value.dtype} among {kinds[name]}")
            writers[name].write(_encode(value, code))
    if written < length:
        raise ValueError(f"{folder}: {written} rows made for a chunk of {length}")
    for name, writer in writers.items():
        writer.close()
        asides[name].replace(_path(folder / name, k))
    _reader.cache_clear()  # it may hold what was at these paths before


def _options(dtype: np.dtype) -> str:
    # One record a group: a random read decodes the one it wants, and not its neighbours. Radiographs are noise to a
    # compressor: zstd saves a sixth of them and makes reading 2.5 times slower. All else shrinks to a fraction.
    return f"group_size:1,{'uncompressed' if dtype == np.uint8 else 'zstd:3'}"


@lru_cache(_OPEN)
def _reader(path: Path, length: int) -> ArrayRecordReader:
    """The reader of a chunk, shared by all threads, known to hold `length` rows."""
    if not path.exists():
        raise DamagedError(f"{path}: no such chunk of records; {_mend(path.parent)}")
    try:
        # A small buffer and no reading ahead: the default reads a megabyte for every record.
        options = "readahead_buffer_size:0,max_parallelism:0"
        reader = ArrayRecordReader(str(path), options, file_reader_buffer_size=1 << 15)
    except RuntimeError as error:
        raise DamagedError(f"{path}: not a whole chunk ({first_line(error)}); {_mend(path.parent)}") from None
    if reader.num_records() != length:
        raise DamagedError(
            f"{path}: holds {reader.num_records()} rows in the place of {length}; {_mend(path.parent)}"
        )
    return reader


def _whole(path: Path, length: int) -> bool:
    try:
        _reader(path, length)
    except DamagedError:
        return False
    return True


def _path(column: Path, chunk: int) -> Path:
    return column / f"{chunk:05d}.array_record"


def _mend(column: Path) -> str:
    return f"delete {column.parent} and run the same command, which makes it again"


def _encode(value: np.ndarray, code: Code) -> bytes:
    if code == "raw":
        return value.tobytes()
    flat = value.reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    return np.diff(starts, append=flat.size).astype("<u4").tobytes() + flat[starts].tobytes()


def _decode(record: bytes, shape: tuple[int, ...], dtype: np.dtype, code: Code) -> np.ndarray:
    if code == "raw":
        return np.frombuffer(record, dtype).reshape(shape)
    runs = len(record) // (4 + dtype.itemsize)
    lengths = np.frombuffer(record, "<u4", runs)
    return np.repeat(np.frombuffer(record, dtype, runs, 4 * runs), lengths).reshape(shape)
