"""The one train loop. A stage gives it pure functions; it gives back the finished (or best) state.

Everything that can be lost is saved: state and data iterator go into one checkpoint, a signal asks for one more
before the program ends, and calling `fit` again with the same directory goes on where it stopped, bit for bit.
On several processes all of them call `fit`; each evaluates alone, and the first one writes the log. A checkpoint is
all processes' work, and opens on any number of them.
"""

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from chexseg_jax.errors import InputError
from chexseg_jax.processes import on_first
from chexseg_jax.progress import progress, say
from chexseg_jax.training.checkpoint import Checkpoints
from chexseg_jax.training.metrics_log import MetricsLog
from chexseg_jax.training.profiling import MeasuredStep, Profile
from chexseg_jax.training.sharding import DATA_AXIS, check_divides, data_mesh, replicate, split_batch
from chexseg_jax.training.state import PyTree, TrainState

#: Updates between lines of the log, and between the moments at which several processes ask each other for signals.
_LOG_EVERY = 10

#: key -> (params, model_state)
Init = Callable[[jax.Array], tuple[PyTree, PyTree]]
#: (params, model_state, batch, keys) -> (loss, (model_state, metrics)); runs once per device on its part of the
#: batch, inside `shard_map` over the axis `data`. `keys` has one random key per example of that part, the same
#: for an example wherever it lies.
Loss = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, tuple[PyTree, Mapping[str, jax.Array]]]]
#: variables -> scalars, at every checkpoint
Evaluate = Callable[[Mapping[str, PyTree]], Mapping[str, float]]


@lru_cache(maxsize=4)
def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[TrainState, PyTree, jax.Array], tuple[TrainState, Mapping[str, jax.Array]]]:
    """The jitted update: (state, global batch, key) -> (state, metrics averaged over devices); donates `state`.

    Trainings that share loss and optimizer, as the runs of a table do, share its compilation.

    The mean of the devices' losses is what is differentiated: `shard_map` knows that parameters are replicated,
    so their gradient comes out summed over the devices with no collective written here.
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
        return TrainState(state.step + 1, params, model_state, opt_state), metrics

    sharded = jax.shard_map(step, mesh=mesh, in_specs=(P(), P(DATA_AXIS), P()), out_specs=P())
    return jax.jit(sharded, donate_argnums=0)


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
) -> TrainState:
    """Trains for `steps` updates, or goes on with what `directory` holds.

    Args:
      name: what progress lines call the training.
      init, loss, evaluate: see `Init`, `Loss`, `Evaluate` in this module.
      optimizer: any optax transformation.
      batches: a Grain iterator; its state is saved with the train state.
      batch_size: global.
      steps: updates in all.
      seed: of initialisation, augmentation and dropout.
      directory: takes `checkpoints/`, `metrics.jsonl`, `performance.json` and `tensorboard/`.
      checkpoint_every: updates between checkpoints, each with one evaluation; the last update has one always.
      best: the evaluation's scalar to choose by, larger is better; None returns the last state.
      mesh: default all devices.
      profile: what is looked into, see `training.profiling`.

    Returns:
      The chosen state, on the host's first device or replicated over the mesh.

    Raises:
      InputError: where the batch does not divide over the devices or the loss is no longer finite.
      KeyboardInterrupt: after SIGINT or SIGTERM to any process, once a checkpoint is written.
    """
    mesh = mesh or data_mesh()
    check_divides(batch_size, mesh)
    init_key, step_key = jax.random.split(jax.random.key(seed))

    def initial() -> TrainState:
        params, model_state = init(init_key)
        return TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params))

    log = MetricsLog(directory, writes=jax.process_index() == 0)
    checkpoints = Checkpoints(directory / "checkpoints", best=best)
    state = replicate(initial(), mesh)
    if checkpoints.latest is not None:
        state, batches = checkpoints.restore(state, batches)
        say(f"{name}: goes on from step {int(state.step)}")
    start = int(state.step)
    log.truncate(start)
    say(
        f"{name}: {parameter_overview.count_parameters(state.params):,} parameters, {steps - start} steps to go"
    )

    measured = MeasuredStep(
        make_step(loss, optimizer, mesh),
        name=name,
        mesh=mesh,
        directory=directory,
        batch_size=batch_size,
        steps=range(start + 1, steps + 1),
        profile=profile,
    )
    pending: tuple[int, Mapping[str, jax.Array]] | None = None
    with _stop_signals() as stopping, progress(name, steps) as advance, measured as update:
        for step in range(start + 1, steps + 1):
            batch = split_batch(next(batches), mesh)
            state, metrics = update(step, state, batch, step_key)
            if pending is not None:  # fetched one step late, so that the device never waits for the log
                _log(name, log, *pending, advance, update)
                pending = None
            logged = step % _LOG_EVERY == 0 or step == steps
            if logged:
                pending = (step, metrics)
            looks = logged or jax.process_count() == 1
            due = step % checkpoint_every == 0 or step == steps
            if due or (looks and stopping()):
                if pending is not None:
                    _log(name, log, *pending, advance, update)
                    pending = None
                # Asked to stop, a due step is judged all the same: after a restart it would be over.
                # The first process judges for all: each by itself might find another checkpoint the best.
                judges = evaluate and (due or not stopping())
                scores = dict(on_first(evaluate, state.variables)) if judges else {}
                if scores:
                    log.write(step, scores)
                    say(f"{name}: step {step}, " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
                checkpoints.save(step, state, batches, scores)
                update.restart(step)
                if stopping():
                    checkpoints.close()
                    say(f"{name}: stopped at step {step}; the same command goes on from there")
                    raise KeyboardInterrupt
    checkpoints.wait()
    if best is not None and checkpoints.best not in (None, steps):
        state = checkpoints.restore_state(checkpoints.best, state)
        say(f"{name}: the best checkpoint is step {checkpoints.best} of {steps}")
    checkpoints.close()
    log.close()
    return state


def _log(
    name: str,
    log: MetricsLog,
    step: int,
    metrics: Mapping[str, jax.Array],
    advance: Any,
    update: MeasuredStep,
) -> None:
    scalars = {key: float(value) for key, value in metrics.items()}
    update.fetched(step)
    log.write(step, scalars)
    advance(step, f"loss {scalars['loss']:.4f}")
    if not math.isfinite(scalars["loss"]):
        raise InputError(f"{name}: the loss is {scalars['loss']} at step {step}; lower the learning rate")


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into a flag that the loop looks at between steps, where the state is whole.

    Of several processes all look at once, and see whether any of them was asked.
    """
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        asked = True

    try:
        old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread (a notebook's worker): leave signals alone
        old = {}
    try:
        yield lambda: bool(multihost_utils.process_allgather(np.array(asked)).any())
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
