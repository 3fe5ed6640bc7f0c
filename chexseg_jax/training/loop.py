"""The one train loop. A stage passes pure functions and gets back the last or the best state.

State and data iterator are saved in one checkpoint, and a signal adds one before the program ends. Calling `fit` again
with the same directory resumes from the latest checkpoint: bit for bit, on a GPU with `config.deterministic`.

With several processes, every process calls `fit`. Process 0 evaluates and writes the logs; all of them write the
checkpoint, which restores on any number of processes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypedDict

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.parameter_overview import count_parameters
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from chexseg_jax.errors import Stopped, stop_signals
from chexseg_jax.processes import on_first
from chexseg_jax.progress import progress, say
from chexseg_jax.training.checkpoint import Checkpoints
from chexseg_jax.training.finite import Watch, is_finite
from chexseg_jax.training.loggers import open_loggers
from chexseg_jax.training.profiling import MeasuredStep, Profile
from chexseg_jax.training.sharding import (
    DATA_AXIS,
    check_divides,
    data_mesh,
    default_layouts,
    replicate,
    split_batch,
    state_format,
)
from chexseg_jax.training.state import Init, PyTree, TrainState

#: Updates between log lines. Several processes also ask each other for signals only at these steps.
_LOG_EVERY = 10

#: (params, model_state, batch, keys) -> (loss, (model_state, metrics)); runs once per device on its part of the batch,
#: inside `shard_map` over the axis `data`. `keys` has one random key per example, which does not depend on the device
#: that holds the example.
Loss = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, tuple[PyTree, Mapping[str, jax.Array]]]]
#: variables -> scalars, at every checkpoint
Evaluate = Callable[[Mapping[str, PyTree]], Mapping[str, float]]


class Apart(TypedDict, total=False):
    """What does not change the result of a sound training, and so is no part of an artifact's key.

    Attributes:
      profile: what to profile, see `training.profiling`. Default: nothing.
      skip_steps: so many steps whose loss or update is not finite are skipped, counted from each start; one more ends
        the training. Default 0.
    """

    profile: Profile
    skip_steps: int


@lru_cache(maxsize=4)
def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh, guarded: bool = False
) -> Callable[[TrainState, PyTree, jax.Array], tuple[TrainState, Mapping[str, jax.Array]]]:
    """Make the jitted update: (state, global batch, key) -> (state, metrics averaged over devices); donates `state`.

    On a GPU, call it through `sharding.compile_step`.

    The metric `sound` says whether the loss is finite. A guarded update is sound only if the new state is finite,
    too; otherwise it changes nothing but the number of the step.

    The loss is differentiated as the mean over devices. `shard_map` knows that the parameters are replicated, so it
    sums their gradient over the devices itself.

    Cached for one reason: the runs of a table, which share loss and optimizer, share one compilation.
    """

    def step(state: TrainState, batch: PyTree, key: jax.Array):
        local = jax.tree.leaves(batch)[0].shape[0]
        rows = jax.lax.axis_index(DATA_AXIS) * local + jnp.arange(local)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, state.step), rows)

        def global_loss(params):
            value, aux = loss(params, state.model_state, batch, keys)
            return jax.lax.pmean(value, DATA_AXIS), aux

        (value, (model_state, metrics)), gradients = jax.value_and_grad(global_loss, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = jax.lax.pmean({"loss": value, **metrics}, DATA_AXIS)
        new, sound = TrainState(state.step + 1, params, model_state, opt_state), jnp.isfinite(value)
        if guarded:
            sound &= is_finite(new.variables)
            new = jax.tree.map(partial(jnp.where, sound), new, state.replace(step=new.step))
        return new, metrics | {"sound": sound}

    sharded = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(DATA_AXIS), P()), out_specs=P())
    state = state_format(mesh)
    return jax.jit(sharded, donate_argnums=0, in_shardings=(state, None, None), out_shardings=(state, None))


def fit(
    name: str,
    *,
    init: Init,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    batches: grain.DatasetIterator,
    batch_size: int,
    steps: int,
    seed: int,
    directory: Path,
    checkpoint_every: int,
    evaluate: Evaluate | None = None,
    best: str | None = None,
    mesh: Mesh | None = None,
    profile: Profile = Profile(),
    skip_steps: int = 0,
) -> TrainState:
    """Train for `steps` updates, resuming from the latest checkpoint in `directory` if there is one.

    Args:
      name: the training's name in progress lines.
      init, loss, evaluate: see `Init`, `Loss`, `Evaluate`.
      optimizer: any optax transformation.
      batches: a Grain iterator, saved with the state. A column `id` names the images of a batch in errors; the loss
        does not get it.
      batch_size: global.
      steps: updates in all.
      seed: of initialisation, augmentation and dropout.
      directory: receives `checkpoints/`, `metrics.jsonl`, `performance.json` and `tensorboard/`.
      checkpoint_every: updates between checkpoints. Each has one evaluation; the last update always has both.
      best: choose the checkpoint by this scalar of `evaluate`, larger is better; None returns the last state.
      mesh: default all devices.
      profile, skip_steps: see `Apart`.

    Returns:
      The chosen state, replicated over the mesh.

    Raises:
      InputError: if the batch does not divide over the devices, or a loss, or a variable at a checkpoint, is not
        finite.
      DamagedError: if the checkpoint's state has another structure or is not what was written.
      Stopped: after one of `STOP_SIGNALS` to any process, once a checkpoint is written.
    """
    mesh = mesh or data_mesh()
    check_divides(batch_size, mesh)
    init_key, step_key = jax.random.split(jax.random.key(seed))
    checkpoints = Checkpoints(directory / "checkpoints", name=name, best=best)
    state, batches = checkpoints.restore(_initial_state(init, optimizer, init_key, mesh), batches)
    todo = range(int(state.step) + 1, steps + 1)
    say(f"{name}: {count_parameters(state.params):,} parameters, {len(todo)} of {steps} steps to go")
    step_of = make_step(loss, optimizer, mesh, guarded=skip_steps > 0)
    pending: list[tuple[int, Mapping[str, jax.Array]]] = []

    def log_pending() -> None:
        while pending:
            at, metrics = pending.pop()
            watch.check(at)
            update.fetched(at)
            log(at, {key: float(value) for key, value in metrics.items() if math.isfinite(value)})
            advance(at, f"loss {metrics['loss']:.4f}")

    def save(state: TrainState, scores: Mapping[str, float]) -> None:
        if scores := {key: value for key, value in scores.items() if not math.isnan(value)}:
            log(step, scores)
            say(f"{name}: step {step}, " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
        checkpoints.save(step, state, batches, scores)
        update.restart(step)

    with closing(checkpoints):  # it finishes writing, however the training ends
        with (
            open_loggers(directory, first_step=todo.start) as log,
            progress(name, steps) as advance,
            _stop_signals() as stopping,
            MeasuredStep(step_of, name, directory, mesh, todo, profile) as update,
        ):
            watch = Watch(name, skip_steps, checkpoints, log)
            for step in todo:
                batch, ids = _without_ids(next(batches))
                state, metrics = update(step, state, split_batch(batch, mesh), step_key)
                watch.add(step, ids, metrics["loss"], metrics.pop("sound"))
                log_pending()  # one step late, so that the device never waits for the log
                due, logged = (step % every == 0 or step == steps for every in (checkpoint_every, _LOG_EVERY))
                if logged:
                    pending.append((step, metrics))
                if due or ((logged or jax.process_count() == 1) and stopping()):
                    log_pending()
                    readable = default_layouts(state)
                    watch.check(step, readable.variables)
                    # Process 0 evaluates for all: separate evaluations could disagree on the best checkpoint.
                    save(readable, on_first(evaluate, readable.variables) if due and evaluate else {})
                    _leave_if(stopping(), f"{name}: stopped at step {step}; rerun the command to resume")
        return checkpoints.choose(default_layouts(state))


def _without_ids(batch: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The batch for the devices, which take no text, and the ids of its images, if it has any."""
    rest = dict(batch)
    return rest, rest.pop("id", np.array([]))


def _initial_state(
    init: Init, optimizer: optax.GradientTransformation, key: jax.Array, mesh: Mesh
) -> TrainState:
    params, model_state = init(key)
    return replicate(TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params)), mesh)


def _leave_if(signal: int, words: str) -> None:
    """Say the words and raise `Stopped` if there is a signal."""
    if signal:
        say(words)
        raise Stopped(signal)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Keep the number of a signal until the loop reads it between steps, where the state is complete.

    Reading it is collective: every process learns whether any of them got a signal.
    """
    asked = 0

    def ask(number: int, _: Any) -> None:
        nonlocal asked
        asked = number

    with stop_signals(ask):
        yield lambda: int(multihost_utils.process_allgather(np.array(asked)).max())
