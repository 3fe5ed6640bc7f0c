"""Damage to a training's checkpoints: noticed, or without effect."""

import json
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from training.test_loop import same, train

from chexseg_jax.errors import DamagedError


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A training of 6 steps with its latest checkpoint and the best one, of step 2."""
    folder = tmp_path_factory.mktemp("stopped")
    train_on(folder, 6)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["2", "6"]
    return folder


def train_on(folder, steps):
    values = {2: 0.9}

    def evaluate(variables):
        return {"score": values.get(int(variables["batch_stats"]["count"]) // 8, 0.1)}

    return train(folder, steps, checkpoint_every=2, evaluate=evaluate, best="score")


def train_or_refuse(folder):
    try:
        return train_on(folder, 8), ""
    except DamagedError as error:
        return None, str(error)


def test_a_flipped_bit_is_noticed_or_changes_nothing(stopped, tmp_path):
    sound = train_on(shutil.copytree(stopped, tmp_path / "sound"), 8)
    rng, noticed = np.random.default_rng(0), []
    latest, best = (
        [path.relative_to(stopped) for path in sorted((stopped / "checkpoints" / step).rglob("*"))]
        for step in "62"
    )
    files = [*latest, *best[::3]]
    for number, name in enumerate(name for name in files if (stopped / name).is_file()):
        folder = shutil.copytree(stopped, tmp_path / str(number))
        content = bytearray((folder / name).read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (folder / name).write_bytes(content)
        state, told = train_or_refuse(folder)
        if told:
            assert str(folder / "checkpoints") in told, name
            assert "delete this folder" in told
            assert "\n" not in told
            noticed.append(name)
        else:
            assert same(state, sound), name
    assert len(noticed) > 4, noticed


def test_values_that_orbax_reads_without_an_error_are_compared(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "a")
    state = folder / "checkpoints" / "6" / "state"
    with ocp.StandardCheckpointer() as checkpointer:
        values = checkpointer.restore(state)
        values["params"]["w"] = np.nextafter(values["params"]["w"], 9, dtype=np.float32)
        checkpointer.save(state, values, force=True)
    with pytest.raises(
        DamagedError, match=r"checkpoints/6: cannot restore \(.*w.* is not what was written\);"
    ):
        train_on(folder, 8)


def test_another_position_in_the_data_is_noticed(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "a")
    data = folder / "checkpoints" / "6" / "data" / "metadata"
    card = json.loads(data.read_text())
    changed = json.dumps(card["position"]).replace("6", "7")
    assert changed != json.dumps(card["position"])
    data.write_text(json.dumps(card | {"position": json.loads(changed)}))
    with pytest.raises(DamagedError, match=r"cannot restore \(its data item is not what was written\);"):
        train_on(folder, 8)


def test_scores_that_were_changed_do_not_choose(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "a")
    metrics = folder / "checkpoints" / "6" / "metrics" / "metrics"
    assert json.loads(metrics.read_text()) == {"score": 0.1}
    metrics.write_text(json.dumps({"score": 0.95}))
    with pytest.raises(
        DamagedError, match=r"checkpoints/6: cannot restore .its metrics are not what was written.;"
    ):
        train_on(folder, 8)
    shutil.rmtree(folder / "checkpoints" / "6")
    assert same(train_on(folder, 8), train_on(shutil.copytree(stopped, tmp_path / "b"), 8))


def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_resumes(stopped, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "a")
    for data in (folder / "checkpoints").glob("*/data/metadata"):
        data.write_text(json.dumps(json.loads(data.read_text())["position"]))
    assert same(train_on(folder, 8), train_on(shutil.copytree(stopped, tmp_path / "b"), 8))
