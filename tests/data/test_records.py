import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from chexseg_jax.data import records
from chexseg_jax.data.records import Records, write_rows
from chexseg_jax.errors import InputError

VALUES = np.random.default_rng(0).integers(0, 256, (10, 3, 4), dtype=np.uint8)


def of(values, made=None):
    """What makes rows of `values`, noting in `made` which."""

    def make(rows):
        for i in rows:
            if made is not None:
                made.append(int(i))
            yield {"x": values[i]}

    return make


def write(folder, values=VALUES, code="raw", made=None) -> Records:
    return write_rows(folder, len(values), {"x": code}, of(values, made))["x"]


@pytest.fixture
def four_a_chunk(monkeypatch):
    """Ten rows lie in chunks of 4, 4 and 2."""
    monkeypatch.setattr(records, "_SHARES", 3)


@given(
    st.sampled_from(["raw", "runs"]),
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.float16, np.float32]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=2, max_dims=4, max_side=5))
    ),
)
def test_rows_come_back(tmp_path_factory, code, values):
    found = write(tmp_path_factory.mktemp("records"), values, code)
    assert (found.shape, found.dtype) == (values.shape, values.dtype)
    np.testing.assert_array_equal(found[:], values)


def test_rows_written_anew_are_not_read_from_the_file_before(tmp_path):
    np.testing.assert_array_equal(write(tmp_path)[:], VALUES)
    shutil.rmtree(tmp_path / "x")
    np.testing.assert_array_equal(write(tmp_path, VALUES[::-1])[:], VALUES[::-1])


def test_masks_take_little_room(tmp_path):
    planes = np.zeros((4, 320, 320, 2), np.uint8)
    planes[:, 100:200, 50:250], planes[:, 150:300, 200:280] = (3, 1), (5, 0)
    found = write(tmp_path, planes, "runs")
    np.testing.assert_array_equal(found[:], planes)
    sizes = [path.stat().st_size for path in (tmp_path / "x").glob("*.array_record")]
    assert sum(sizes) < planes.nbytes


def test_text_of_a_fixed_length_is_an_array_too(tmp_path):
    texts = np.array([[b""], [b"missing"], [b"cut short"]], "S20")
    assert write(tmp_path, texts)[:].tolist() == texts.tolist()


@pytest.mark.usefixtures("four_a_chunk")
def test_indexed_like_an_array(tmp_path):
    found = write(tmp_path)
    for index in (0, 9, -1, slice(2, 7), slice(None, None, -3), [8, 1, 1, 5], np.array([0, 9]), []):
        np.testing.assert_array_equal(found[index], VALUES[index])
    np.testing.assert_array_equal(found.take([7, 2, 2])[1:], VALUES[[2, 2]])
    np.testing.assert_array_equal(found.take([7, 2, 4]).take([2, 0])[:], VALUES[[4, 7]])
    assert len(list(found)) == 10
    with pytest.raises(IndexError):
        found[10]


@pytest.mark.usefixtures("four_a_chunk")
def test_read_from_threads_and_from_a_pickle(tmp_path):
    found = write(tmp_path)
    order = np.random.default_rng(0).integers(0, 10, 500)
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(np.stack(list(pool.map(found.__getitem__, order))), VALUES[order])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found.take([3])))[:], VALUES[[3]])


@pytest.mark.usefixtures("four_a_chunk")
def test_after_a_kill_only_the_unfinished_chunks_are_made(tmp_path):
    def killed(rows):
        for i, row in zip(rows, of(VALUES)(rows), strict=True):
            if i == 6:
                raise KeyboardInterrupt
            yield row

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path, 10, {"x": "raw"}, killed)
    with pytest.raises(InputError, match=r"x.00001.array_record: no such chunk"):
        Records.open(tmp_path / "x")
    made = []
    np.testing.assert_array_equal(write(tmp_path, made=made)[:], VALUES)
    assert made == [4, 5, 6, 7, 8, 9]
    assert not list(tmp_path.rglob("*.part"))
    write(tmp_path, made=made)
    assert len(made) == 6  # nothing was left to make


def test_after_a_kill_batches_are_those_of_a_run_left_alone(tmp_path):
    """A row's last bits may depend on the batch that it was computed in."""
    met = {}

    def batched(rows):
        for start in range(0, len(rows), 4):
            some = rows[start : start + 4]
            for i in some:
                if i == kill_at:
                    raise KeyboardInterrupt
                met.setdefault(int(i), set()).add(tuple(map(int, some)))
                yield {"x": np.float32([i])}

    for kill_at in (20, 10, 39, None):  # of forty rows a chunk would have three
        folder = tmp_path / str(kill_at)
        if kill_at is not None:
            with pytest.raises(KeyboardInterrupt):
                write_rows(folder, 40, {"x": "raw"}, batched, batch=4)
        kill_at = None
        write_rows(folder, 40, {"x": "raw"}, batched, batch=4)
    assert {len(batches) for batches in met.values()} == {1}


@pytest.mark.usefixtures("four_a_chunk")
def test_a_chunk_is_unfinished_until_all_its_columns_are_there(tmp_path):
    def both(rows):
        return ({"x": VALUES[i], "y": VALUES[i, 0]} for i in rows)

    write_rows(tmp_path, 10, {"x": "raw", "y": "raw"}, both)
    (tmp_path / "y" / "00001.array_record").unlink()
    rows = []
    columns = write_rows(tmp_path, 10, {"x": "raw", "y": "raw"}, lambda some: both(rows.extend(some) or some))
    assert rows == [4, 5, 6, 7]
    np.testing.assert_array_equal(columns["y"][:], VALUES[:, 0])


@pytest.mark.usefixtures("four_a_chunk")
def test_processes_share_the_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    waited, made = [], {}
    monkeypatch.setattr("chexseg_jax.data.records.wait_for_all", waited.append)
    for index in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        made[index] = []
        if index == 1:  # it comes back before the other has written, as no barrier holds it
            with pytest.raises(InputError, match="x: no records"):
                write(tmp_path, made=made[index])
        else:
            np.testing.assert_array_equal(write(tmp_path, made=made[index])[:], VALUES)
    assert made == {0: [0, 1, 2, 3, 8, 9], 1: [4, 5, 6, 7]}
    assert len(waited) == 2


def damaged(path, how):
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "foreign": b"?" * 100_000}[how])


@pytest.mark.usefixtures("four_a_chunk")
@pytest.mark.parametrize("how", ["cut", "empty", "foreign"])
def test_a_damaged_chunk_is_named_and_made_again(tmp_path, how):
    path = tmp_path / "x" / "00001.array_record"
    write_rows(tmp_path, 10, {"x": "raw"}, of(VALUES))
    damaged(path, how)
    records._reader.cache_clear()
    found = Records.open(tmp_path / "x")
    np.testing.assert_array_equal(found[:4], VALUES[:4])
    with pytest.raises(
        InputError, match=r"x.00001.array_record: .*; delete .* and rerun the command"
    ) as error:
        found[5]
    assert "\n" not in str(error.value)
    made = []
    np.testing.assert_array_equal(write(tmp_path, made=made)[:], VALUES)
    assert made == [4, 5, 6, 7]


def test_rows_that_are_too_few_or_unlike_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 rows for a chunk of 3"):
        write_rows(tmp_path, 33, {"x": "raw"}, lambda rows: of(VALUES)(rows[:2]))
    with pytest.raises(ValueError, match=r"x: a row of \(2,\) uint8 among"):
        write_rows(tmp_path, 33, {"x": "raw"}, lambda rows: ({"x": np.zeros(1 + i, np.uint8)} for i in rows))
