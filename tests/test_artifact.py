import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from ml_collections import ConfigDict

from chexseg_jax import artifact as stages
from chexseg_jax.artifact import artifact, config_digest, plain


def test_made_once_and_found_again(tmp_path):
    calls = []

    def make(part):
        calls.append(part)
        (part / "result").write_text("done")

    key = {"config": ConfigDict({"lr": 0.1}), "inputs": ("a", "b")}
    first = artifact(tmp_path, "stage", key, make)
    assert artifact(tmp_path, "stage", key, make) == first
    assert len(calls) == 1
    assert (first / "result").read_text() == "done"
    card = json.loads((first / "artifact.json").read_text())
    assert card["key"] == {"config": {"lr": 0.1}, "inputs": ["a", "b"]}
    assert "jax" in card["versions"]


def test_of_two_that_want_it_at_once_one_makes_it_and_the_other_waits(tmp_path):
    began, may_end, calls = threading.Event(), threading.Event(), []

    def make(part):
        calls.append(part)
        began.set()
        assert may_end.wait(10)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(artifact, tmp_path, "stage", {}, make)
        assert began.wait(10)
        second = pool.submit(artifact, tmp_path, "stage", {}, make)
        assert wait([second], timeout=0.3).not_done
        may_end.set()
        assert first.result() == second.result()
    assert len(calls) == 1


def test_who_waits_makes_it_where_the_maker_fails(tmp_path):
    began, may_end = threading.Event(), threading.Event()

    def fails(part):
        began.set()
        assert may_end.wait(10)
        raise RuntimeError

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(artifact, tmp_path, "stage", {}, fails)
        assert began.wait(10)
        second = pool.submit(artifact, tmp_path, "stage", {}, lambda part: None)
        may_end.set()
        assert second.result().is_dir()
        with pytest.raises(RuntimeError):
            first.result()


def test_another_key_is_another_artifact(tmp_path):
    made = {artifact(tmp_path, "stage", {"lr": lr}, lambda part: None) for lr in (0.1, 0.2)}
    assert len(made) == 2


def test_a_failed_one_is_never_taken_for_finished_and_goes_on_where_it_was(tmp_path):
    def fails(part):
        (part / "half").write_text("1")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        artifact(tmp_path, "stage", {}, fails)
    assert [path.suffix for path in tmp_path.glob("stage*")] == [".part"]

    def succeeds(part):
        assert (part / "half").read_text() == "1"

    assert artifact(tmp_path, "stage", {}, succeeds).suffix == ""
    assert not list(tmp_path.glob("*.part"))


def test_a_whole_training_keeps_no_checkpoints(tmp_path):
    def trains(part):
        for name in ("checkpoints", "variables"):
            (part / name).mkdir()

    assert {path.name for path in artifact(tmp_path, "stage", {}, trains).iterdir()} == {
        "variables",
        "artifact.json",
    }


def test_the_digest_changes_with_any_value_and_not_with_the_order():
    base = {"a": 1, "b": {"c": (1, 2)}}
    assert config_digest(base) == config_digest({"b": {"c": [1, 2]}, "a": 1})
    assert config_digest(base) != config_digest({"a": 1, "b": {"c": [1, 3]}})
    assert plain(ConfigDict({"x": (1, 2)})) == {"x": [1, 2]}


def test_what_an_older_version_of_a_stage_made_is_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "VERSIONS", {"walks": 2})
    made = [artifact(tmp_path, stage, {}, lambda part: None) for stage in ("walks", "cams")]
    monkeypatch.setattr(stages, "VERSIONS", {"walks": 3})
    again = [artifact(tmp_path, stage, {}, lambda part: None) for stage in ("walks", "cams")]
    assert made[0] != again[0]
    assert made[1] == again[1]
