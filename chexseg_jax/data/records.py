"""Arrays on disk by rows, for any number of rows: written in chunks by any number of processes, read at random.

A column is a folder with `index.json` (number of rows; shape, dtype and code of one) and its chunks, ArrayRecord files
of about 1024 rows at most. A chunk is written aside and renamed once complete: it is the unit of work, of resumption
and of sharing. Chunks need no merging, since a reader opens those of all writers.

Masks are stored as run lengths over their bit-planes: one code for all tasks of an image. On the phantom's ten masks
at 320 px that is 0.8 kB an image compressed, where COCO's ten codes take 1.1 kB and eight to twelve times as long to
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

#: The encoding of a row: its bytes, or the lengths and values of its runs of equal pixels (bit-planes [..., P]).
Code = Literal["raw", "runs"]

_CHUNK = 1024
#: Least number of chunks of a small set (while it has the rows), so that processes can share it too.
_SHARES = 16
#: Readers kept open, each with a file handle (a process usually may have 1024).
_OPEN = 512


@dataclass(frozen=True, eq=False)
class Records(Sequence):
    """Rows of a column, read when indexed: by int `[*shape]`, by slice or array of ints `[M, *shape]`.

    Indexing is NumPy's along the first axis. Rows may be read from many threads, and the object pickled for other
    processes.

    Attributes:
      folder: of the column.
      chunk: rows in every chunk but the last.
      written: rows in all chunks.
      item: shape of one row.
      dtype: of all.
      code: the encoding of a row.
      rows: indices among the written rows.
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
        """Open all rows of a column.

        Raises:
          DamagedError: naming the folder or the chunk that is missing.
        """
        try:
            index = json.loads((folder / "index.json").read_text())
        except FileNotFoundError:
            raise DamagedError(f"{folder}: no records (no index.json); {_fix(folder)}") from None
        count, chunk = index["rows"], index["chunk"]
        for k in range(-(-count // chunk)):
            if not _path(folder, k).exists():
                raise DamagedError(f"{_path(folder, k)}: no such chunk of records; {_fix(folder)}")
        shape, dtype = tuple(index["shape"]), np.dtype(index["dtype"])
        return cls(folder, chunk, count, shape, dtype, index["code"], np.arange(count))

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, *shape of a row)`."""
        return (len(self.rows), *self.item)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Sequence[int] | Int[np.ndarray, " M"]) -> "Records":
        """Select rows; they stay on disk."""
        return replace(self, rows=self.rows[np.asarray(rows, int)])

    # A slice of rows is an array, which mypy does not count as a Sequence.
    def __getitem__(self, rows) -> Shaped[np.ndarray, "..."]:  # type: ignore[override]
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
            raise DamagedError(f"{path}: damaged ({first_line(error)}); {_fix(self.folder)}") from None
        return [_decode(record, self.item, self.dtype, self.code) for record in records]


def write_rows(
    folder: Path,
    count: int,
    columns: Mapping[str, Code],
    make: Callable[[Int[np.ndarray, " M"]], Iterable[Mapping[str, np.ndarray]]],
    *,
    batch: int = 1,
) -> dict[str, Records]:
    """Write `count` rows of some columns, this process its share of the chunks; a killed call resumes.

    Process i of n writes every n-th chunk from the i-th. `make` runs in a thread of its own, ahead of the encoding.

    Args:
      folder: receives one folder a column, on a file system that all processes share.
      count: total number of rows.
      columns: names and codes.
      make: takes the rows that this process has yet to write, in order, and yields their arrays by column. All rows
        of a column have the same shape and dtype.
      batch: rows that `make` computes together. Chunks begin at batch boundaries, so a resumed call has the same
        batches and bit-identical rows.

    Returns:
      The complete columns, once every process has written its share.
    """
    chunk = min(_CHUNK, max(1, -(-count // _SHARES)))
    chunk = -(-chunk // batch) * batch
    chunks = {k: np.arange(k * chunk, min((k + 1) * chunk, count)) for k in range(-(-count // chunk))}
    _reader.cache_clear()  # a user may have deleted files that this process has read
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
                writers[name] = ArrayRecordWriter(str(asides[name]), _options(value.dtype, code))
                if k == 0:  # only one process writes chunk 0
                    kind = {"shape": value.shape, "dtype": value.dtype.str, "code": code}
                    (folder / name / "index.json").write_text(json.dumps(index | kind))
            if (value.shape, value.dtype) != kinds[name]:
                raise ValueError(f"{name}: a row of {value.shape} {value.dtype} among {kinds[name]}")
            writers[name].write(_encode(value, code))
    if written < length:
        raise ValueError(f"{folder}: {written} rows for a chunk of {length}")
    for name, writer in writers.items():
        writer.close()
        asides[name].replace(_path(folder / name, k))
    _reader.cache_clear()  # a reader of an older file at these paths may be cached


def _options(dtype: np.dtype, code: Code) -> str:
    # One record a group, so that a random read decodes one record. Radiographs barely compress: zstd saves a sixth of
    # their bytes and makes reading 2.5 times slower. Everything else shrinks to a fraction.
    image = dtype == np.uint8 and code == "raw"
    return f"group_size:1,{'uncompressed' if image else 'zstd:3'}"


@lru_cache(_OPEN)
def _reader(path: Path, length: int) -> ArrayRecordReader:
    """Open a chunk's reader, shared by all threads; the chunk must hold `length` rows."""
    if not path.exists():
        raise DamagedError(f"{path}: no such chunk of records; {_fix(path.parent)}")
    try:
        # A small buffer and no read-ahead: the default reads a megabyte for every record.
        options = "readahead_buffer_size:0,max_parallelism:0"
        reader = ArrayRecordReader(str(path), options, file_reader_buffer_size=1 << 15)
    except RuntimeError as error:
        raise DamagedError(
            f"{path}: truncated or corrupt ({first_line(error)}); {_fix(path.parent)}"
        ) from None
    if reader.num_records() != length:
        raise DamagedError(
            f"{path}: holds {reader.num_records()} rows instead of {length}; {_fix(path.parent)}"
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


def _fix(column: Path) -> str:
    return f"delete {column.parent} and rerun the command, which recomputes it"


def _encode(value: np.ndarray, code: Code) -> bytes:
    if code == "raw":
        return value.tobytes()
    pixels = value.reshape(-1, value.shape[-1])
    starts = np.flatnonzero(np.concatenate([[True], (pixels[1:] != pixels[:-1]).any(1)]))
    return np.diff(starts, append=len(pixels)).astype("<u4").tobytes() + pixels[starts].tobytes()


def _decode(record: bytes, shape: tuple[int, ...], dtype: np.dtype, code: Code) -> np.ndarray:
    if code == "raw":
        return np.frombuffer(record, dtype).reshape(shape)
    runs = len(record) // (4 + shape[-1] * dtype.itemsize)
    lengths = np.frombuffer(record, "<u4", runs)
    values = np.frombuffer(record, dtype, offset=4 * runs).reshape(runs, shape[-1])
    return np.repeat(values, lengths, axis=0).reshape(shape)
