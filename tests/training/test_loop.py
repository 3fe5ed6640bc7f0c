"""The train loop on a model of one matrix: its promises do not depend on the network."""

import json
import os
import signal
import subprocess

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.errors import InputError, Stopped, run_command
from chexseg_jax.models.layers import from_all_devices
from chexseg_jax.training import sharding
from chexseg_jax.training.loop import fit, make_step
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh, replicate, split_batch
from chexseg_jax.training.state import TrainState


class Points:
    """y = x W for a fixed W."""

    def __init__(self, count: int = 32):
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((count, 3)).astype(np.float32)
        self.y = self.x @ np.array([[1.0], [-2.0], [0.5]], np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> dict:
        return {"x": self.x[row], "y": self.y[row]}


def init(key):
    return {"w": jax.random.normal(key, (3, 1))}, {"batch_stats": {"count": jnp.zeros(())}}


def loss(params, model_state, batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys)  # stands for augmentation and dropout
    error = jnp.mean((batch["x"] @ params["w"] + 0.01 * noise - batch["y"]) ** 2)
    count = jax.lax.psum(batch["x"].shape[0], DATA_AXIS) + model_state["batch_stats"]["count"]
    return error, ({"batch_stats": {"count": count}}, {"noise": noise.mean()})


def train(directory, steps, *, batch_stream=None, **more):
    settings = {
        "init": init,
        "loss": loss,
        "optimizer": optax.adam(0.1),
        "batches": batch_stream or batches(shuffled(Points(), seed=0), batch_size=8),
        "batch_size": 8,
        "seed": 0,
        "directory": directory,
        "checkpoint_every": 5,
    }
    return fit("toy", steps=steps, **(settings | more))


def same(a: TrainState, b: TrainState) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_it_learns_and_logs(tmp_path):
    state = train(tmp_path, 200)
    np.testing.assert_allclose(state.params["w"][:, 0], [1.0, -2.0, 0.5], atol=0.05)
    assert int(state.step) == 200
    assert float(state.model_state["batch_stats"]["count"]) == 1600
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 201, 10))
    assert lines[-1]["loss"] < 0.01 < lines[0]["loss"]
    assert list((tmp_path / "tensorboard").iterdir())


def test_one_device_and_two_train_alike(tmp_path):
    states = [train(tmp_path / str(n), 20, mesh=data_mesh(jax.devices()[:n])) for n in (1, 2)]
    for one, two in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=1e-6)


def test_no_two_examples_or_steps_share_a_key(tmp_path):
    def drawn(key):
        return {"w": jnp.zeros(1)}, {"bits": jnp.zeros(8, jnp.uint32)}

    def note(params, model_state, batch, keys):
        bits = from_all_devices(jax.vmap(jax.random.bits)(keys), DATA_AXIS)
        return params["w"].sum(), ({"bits": bits}, {})

    settings = {"init": drawn, "loss": note}
    bits = [train(tmp_path / str(n), n, **settings).model_state["bits"] for n in (1, 2)]
    bits.append(train(tmp_path / "other", 1, seed=1, **settings).model_state["bits"])
    assert len(np.unique(np.concatenate(bits))) == 3 * 8


def test_the_step_is_the_gradient_of_the_global_mean():
    """Against plain jax.grad with no mesh."""
    mesh = data_mesh()
    points = Points(8)
    batch = {"x": points.x, "y": points.y}
    params, model_state = init(jax.random.key(1))
    optimizer = optax.sgd(1.0)

    def plain(params, model_state, batch, keys):
        return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2), (model_state, {})

    expected = jax.grad(lambda p: plain(p, model_state, batch, None)[0])(params)["w"]
    before = np.asarray(params["w"])
    state = TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params))
    after, metrics = make_step(plain, optimizer, mesh)(
        replicate(state, mesh), split_batch(batch, mesh), jax.random.key(0)
    )
    np.testing.assert_allclose(before - np.asarray(after.params["w"]), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], plain({"w": before}, None, batch, None)[0], rtol=1e-6)


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole", 30)
    train(tmp_path / "parts", 13)
    resumed = train(tmp_path / "parts", 30)
    assert same(whole, resumed)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    by_step = [{(line := json.loads(text))["step"]: line for text in texts} for texts in lines]
    assert all(by_step[1][step] == by_step[0][step] for step in by_step[0])


def reversed_layouts(init, optimizer):
    """A `sharding.state_format` of other layouts than the default, as a GPU's compiler chooses them."""

    def initial(key):
        params, model_state = init(key)
        return TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params))

    def state_format(mesh):
        everywhere, state = NamedSharding(mesh, P()), jax.eval_shape(initial, jax.random.key(0))
        return jax.tree.map(lambda x: Format(Layout(tuple(reversed(range(x.ndim)))), everywhere), state)

    return state_format


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("chosen", "order"),
    [
        (reversed_layouts(init, optax.adam(0.1)), (1, 0)),
        (lambda mesh: Format(Layout.AUTO, NamedSharding(mesh, P())), (0, 1)),
    ],
)
def test_a_steps_layouts_change_no_number_and_stay_in_the_step(chosen, order, devices, tmp_path, monkeypatch):
    """Trained in other layouts, saved, and resumed in the default ones, as a GPU's checkpoint is on a CPU; and back."""
    monkeypatch.setattr("chexseg_jax.training.loop._LOG_EVERY", 1)
    mesh, stepped, read = data_mesh(jax.devices()[:devices]), set(), set()

    def layout_of(w):
        return w.format.layout.major_to_minor

    def fresh_loss(params, model_state, batch, keys):
        return loss(params, model_state, batch, keys)  # else its step is already compiled

    def evaluate(variables):
        read.add(layout_of(variables["params"]["w"]))
        return {"score": float(variables["batch_stats"]["count"])}

    def compile_and_note(step, state, *others):
        lowered, compiled, state = sharding.compile_step(step, state, *others)
        stepped.add(
            (layout_of(state.params["w"]), compiled.output_formats[0].params["w"].layout.major_to_minor)
        )
        return lowered, compiled, state

    def resume(name, steps, **more):
        return train(tmp_path / name, steps, mesh=mesh, evaluate=evaluate, best="score", **more)

    whole = resume("whole", 30)
    monkeypatch.setattr("chexseg_jax.training.loop.state_format", chosen)
    monkeypatch.setattr("chexseg_jax.training.profiling.compile_step", compile_and_note)
    resume("parts", 13, loss=fresh_loss)
    monkeypatch.undo()
    resume("parts", 18)
    monkeypatch.setattr("chexseg_jax.training.loop.state_format", chosen)
    state = resume("parts", 30, loss=fresh_loss)
    assert stepped == {(order, order)}
    assert read == {(0, 1)}
    assert layout_of(state.params["w"]) == (0, 1)
    assert same(whole, state)


def test_a_model_without_batch_statistics_trains_and_resumes(tmp_path):
    def no_state(key):
        return {"w": jax.random.normal(key, (3, 1))}, {}

    def plain_loss(params, model_state, batch, keys):
        return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2), (model_state, {})

    settings = {"init": no_state, "loss": plain_loss}
    whole = train(tmp_path / "whole", 30, **settings)
    train(tmp_path / "parts", 13, **settings)
    assert same(whole, train(tmp_path / "parts", 30, **settings))
    assert whole.variables.keys() == {"params"}


def test_checkpoints_of_another_structure_are_refused_in_one_line(tmp_path, capsys):
    train(tmp_path, 5)
    for others in ({"optimizer": optax.sgd(0.1)}, {"init": lambda key: ({"w": jnp.zeros((4, 1))}, {})}):
        with pytest.raises(SystemExit) as stop:
            run_command(lambda others=others: train(tmp_path, 10, **others))
        assert stop.value.code == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
        assert f"{tmp_path / 'checkpoints' / '5'}: cannot restore (" in line
        assert "delete this folder to resume from the checkpoint before it, or from step 0" in line


class Interrupting(grain.DatasetIterator):
    """A data iterator that sends a signal to its process before its n-th batch."""

    def __init__(self, inner, at: int, number: int = signal.SIGTERM):
        super().__init__()
        self.inner, self.left, self.number = inner, at, number

    def __next__(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return next(self.inner)

    def get_state(self):
        return self.inner.get_state()

    def set_state(self, state):
        self.inner.set_state(state)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_before_the_program_ends(number, tmp_path):
    whole = train(tmp_path / "whole", 30)
    stream = Interrupting(batches(shuffled(Points(), seed=0), batch_size=8), at=17, number=number)
    handler = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        train(tmp_path / "cut", 30, batch_stream=stream)
    assert stopped.value.number == number
    assert (tmp_path / "cut" / "checkpoints" / "17").is_dir()  # not a multiple of checkpoint_every
    assert same(whole, train(tmp_path / "cut", 30))
    assert signal.getsignal(number) == handler


def test_a_signal_does_not_skip_the_evaluation_of_a_due_step(tmp_path):
    stream = Interrupting(batches(shuffled(Points(), seed=0), batch_size=8), at=10)
    evaluated = []

    def evaluate(variables):
        evaluated.append(variables)
        return {"score": 1.0 / len(evaluated)}

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 20, batch_stream=stream, evaluate=evaluate, best="score")
    assert len(evaluated) == 2  # steps 5 and 10
    assert int(train(tmp_path, 20, evaluate=evaluate, best="score").step) == 5
    assert len(evaluated) == 4


def test_a_signal_between_checkpoints_has_no_evaluation_that_a_training_without_it_would_not_have(tmp_path):
    stream = Interrupting(batches(shuffled(Points(), seed=0), batch_size=8), at=7)
    evaluated = []

    def evaluate(variables):
        evaluated.append(int(variables["batch_stats"]["count"]) // 8)
        return {"score": float(evaluated[-1] == 7)}

    with pytest.raises(Stopped):
        train(tmp_path, 10, batch_stream=stream, evaluate=evaluate, best="score")
    train(tmp_path, 10, evaluate=evaluate, best="score")
    assert evaluated == [5, 10]


@pytest.mark.parametrize("real", [True, False], ids=["a full disk", "simulated"])
def test_a_full_disk_ends_the_training_in_one_line_and_it_resumes(tmp_path, real, monkeypatch, capsys):
    """Its checkpoints are written in threads: the error comes to light with a later call."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        real
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "t", disk], check=False).returncode
    ):
        pytest.skip("mounting needs root")

    def large(key):
        params, model_state = init(key)
        return {**params, "noise": jax.random.normal(key, (32_000,))}, model_state

    settings = {"init": large, "optimizer": optax.sgd(0.1)}
    try:
        if not real:
            monkeypatch.setattr(ocp.CheckpointManager, "save", full_at(ocp.CheckpointManager.save, step=10))
        with pytest.raises(SystemExit) as stop:
            run_command(lambda: train(disk / "x", 40, **settings))
        assert stop.value.code == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
        assert f"{disk}/x/checkpoints: No space left on device; free some space" in line
        assert "resume from the checkpoint of step 5" in line
        monkeypatch.undo()
        if real:
            subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
        assert int(train(disk / "x", 40, **settings).step) == 40
        assert "35 of 40 steps to go" in capsys.readouterr().err
    finally:
        if real:
            subprocess.run(["umount", "-l", disk], check=True)


def full_at(save, step):
    def fails(self, at, **more):
        if at == step:
            self.wait_until_finished()
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']")
        return save(self, at, **more)

    return fails


def test_the_best_checkpoint_is_returned(tmp_path):
    scores = iter([0.1, 0.9, 0.3, 0.2])
    evaluated = []

    def evaluate(variables):
        evaluated.append(np.asarray(variables["params"]["w"]))
        return {"score": next(scores)}

    state = train(tmp_path, 20, evaluate=evaluate, best="score")
    assert int(state.step) == 10
    np.testing.assert_array_equal(state.params["w"], evaluated[1])
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {"10", "20"}  # the best and the latest, no more


def test_without_a_score_the_last_state_is_returned_and_named(tmp_path, capsys):
    state = train(tmp_path, 20, evaluate=lambda _: {"score": float("nan")}, best="score")
    assert int(state.step) == 20
    told = capsys.readouterr().err
    assert "toy: nothing to choose a checkpoint by; the last is kept" in told
    assert "nan" not in told
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch size 7 does not divide over 2 devices"):
        train(tmp_path, 1, batch_size=7)
