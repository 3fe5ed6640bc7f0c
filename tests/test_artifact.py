import errno
import fcntl
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from chexseg_jax.artifact import Store, config_digest, plain
from chexseg_jax.errors import DamagedError, InputError


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def nothing(part, **inputs):
    """A stage without output."""


def test_an_artifact_is_made_once_and_then_reused(store):
    calls = []

    def stage(part, *, config, rows, images, note):
        calls.append(note)
        (part / "result").write_text("done")

    inputs = {"config": ConfigDict({"lr": 0.1}), "rows": np.arange(3), "images": store.folder / "prepare-1"}
    first = store.make("stage", stage, **inputs, apart={"note": "a"})
    # What stands apart does not name the artifact.
    assert store.make("stage", stage, **inputs, apart={"note": "b"}) == first
    assert calls == ["a"]
    assert (first / "result").read_text() == "done"
    card = json.loads((first / "artifact.json").read_text())
    assert card["key"] == {"config": {"lr": 0.1}, "rows": plain(np.arange(3)), "images": "prepare-1"}
    assert "jax" in card["versions"]


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "card"])
def test_a_finished_artifact_whose_files_changed_is_refused(store, harm):
    def stage(part):
        (part / "deep").mkdir()
        (part / "deep" / "result").write_bytes(bytes(100))
        (part / "checkpoints").mkdir()
        (part / "checkpoints" / "state").write_text("deleted when the stage has finished")

    made = store.make("stage", stage)
    file = made / ("artifact.json" if harm == "card" else "deep/result")
    match harm:
        case "flip":
            file.write_bytes(bytes(50) + b"\1" + bytes(49))
        case "remove":
            file.unlink()
        case _:
            file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=f"{made.name}/{file.relative_to(made)}: .*; delete .* and rerun"):
        store.make("stage", stage)


def test_planning_names_an_artifact_without_making_it(store):
    planned = store.plan().make("stage", nothing, x=1)
    assert not planned.exists()
    assert store.make("stage", nothing, x=1) == planned


def test_of_two_concurrent_runs_one_makes_the_artifact_and_the_other_waits(store):
    began, may_end, calls = threading.Event(), threading.Event(), []

    def stage(part):
        calls.append(part)
        began.set()
        assert may_end.wait(10)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.make, "stage", stage)
        assert began.wait(10)
        second = pool.submit(store.make, "stage", stage)
        assert wait([second], timeout=0.3).not_done
        may_end.set()
        assert first.result() == second.result()
    assert len(calls) == 1


def test_the_waiting_run_makes_the_artifact_if_the_maker_fails(store):
    began, may_end = threading.Event(), threading.Event()

    def fails(part):
        began.set()
        assert may_end.wait(10)
        raise RuntimeError

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.make, "stage", fails)
        assert began.wait(10)
        second = pool.submit(store.make, "stage", nothing)
        may_end.set()
        assert second.result().is_dir()
        with pytest.raises(RuntimeError):
            first.result()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 0.1}, {"lr": 0.2}),
        ({"rows": np.array([0, 1])}, {"rows": np.array([1, 0])}),
        ({"rows": np.arange(100)}, {"rows": np.arange(99)}),
        ({"split": SimpleNamespace(fingerprint="a")}, {"split": SimpleNamespace(fingerprint="b")}),
        ({"version": 1}, {"version": 2}),
    ],
)
def test_other_inputs_or_another_version_name_another_artifact(store, one, other):
    first, second = (store.make("stage", nothing, **inputs) for inputs in (one, other))
    assert first != second
    assert store.make("stage", nothing, **one) == first


def test_an_object_without_a_key_is_refused(store):
    with pytest.raises(TypeError, match="object cannot be part of an artifact's key"):
        store.make("stage", nothing, x=object())


def test_a_failed_stage_is_never_taken_for_finished_and_resumes(store):
    def fails(part):
        (part / "half").write_text("1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.make("stage", fails)
    assert [path.suffix for path in store.folder.glob("stage*")] == [".part"]

    def succeeds(part):
        assert (part / "half").read_text() == "1"

    assert store.make("stage", succeeds).suffix == ""
    assert not list(store.folder.glob("*.part"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_line_and_nothing_is_made(store, number, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    def stop(*_):
        raise TimeoutError("it waits")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(time, "sleep", stop)
    with pytest.raises(
        InputError, match=r"stage-\w+: this file system has no locks \(.*; give a --workdir or --out on one"
    ):
        store.make("stage", nothing)
    assert not list(store.folder.glob("stage*"))


def test_a_lock_file_that_a_user_deletes_is_waited_for_no_longer(store):
    began, may_end = threading.Event(), threading.Event()

    def hangs(part):
        began.set()
        assert may_end.wait(10)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.make, "stage", hangs)
        assert began.wait(10)
        second = pool.submit(store.make, "stage", nothing)
        assert wait([second], timeout=0.3).not_done
        (lock,) = (store.folder / ".locks").iterdir()
        lock.unlink()
        assert second.result(10).is_dir()
        may_end.set()
        wait([first])


def test_a_full_disk_names_the_artifact(store):
    def fills(part):
        raise OSError(errno.ENOSPC, "No space left on device")  # as `write` does, without the file's name

    with pytest.raises(
        InputError, match=r"stage-\w+\.part: No space left on device; free some space, and rerun"
    ):
        store.make("stage", fills)


def test_what_a_killed_process_left_half_written_is_no_part_of_the_artifact(store):
    def stage(part, *, killed):
        if killed:
            (part / ".scores.json.host.1.part").write_text("[1, 2")
            (part / ".model.host.1.part").mkdir()
            (part / ".model.host.1.part" / "a").write_text("")
            raise KeyboardInterrupt  # as far as the folder goes, a kill
        (part / "scores.json").write_text("[1, 2]")

    def resumed(part):
        stage(part, killed=False)

    def first(part):
        stage(part, killed=True)

    with pytest.raises(KeyboardInterrupt):
        store.make("stage", first)
    made = store.make("stage", resumed)
    assert sorted(path.name for path in made.iterdir()) == ["artifact.json", "scores.json"]
    assert json.loads((made / "artifact.json").read_text())["files"].keys() == {"scores.json"}


def test_a_finished_training_keeps_no_checkpoints(store):
    def trains(part):
        for name in ("checkpoints", "variables"):
            (part / name).mkdir()

    made = store.make("stage", trains)
    assert {path.name for path in made.iterdir()} == {"variables", "artifact.json"}
    (made / "checkpoints").mkdir()  # as if it had been killed just before it removed them
    store.make("stage", trains)
    assert not (made / "checkpoints").exists()


def test_the_digest_changes_with_any_value_and_not_with_the_order():
    base = {"a": 1, "b": {"c": (1, 2)}}
    assert config_digest(base) == config_digest({"b": {"c": [1, 2]}, "a": 1})
    assert config_digest(base) != config_digest({"a": 1, "b": {"c": [1, 3]}})
    assert plain(ConfigDict({"x": (1, 2)})) == {"x": [1, 2]}
