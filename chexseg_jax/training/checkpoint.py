"""A training's Orbax checkpoints: state and data iterator together."""

from collections.abc import Mapping
from pathlib import Path

import grain
import jax
import orbax.checkpoint as ocp

from chexseg_jax.errors import InputError, disk_errors, first_line
from chexseg_jax.progress import say
from chexseg_jax.training.state import TrainState


class Checkpoints:
    """A training's checkpoints in one folder: the latest, and the best by one scalar. Saving is asynchronous.

    Args:
      directory: is created.
      name: the training's name in progress lines.
      best: the scalar to choose by, larger is better; None keeps only the latest.
    """

    def __init__(self, directory: Path, *, name: str, best: str | None):
        self._directory, self._name, self._best = directory, name, best
        policies = [ocp.checkpoint_managers.LatestN(1)]
        if best is not None:
            policies.append(
                ocp.checkpoint_managers.BestN(
                    get_metric_fn=lambda scores: scores[best], n=1, keep_checkpoints_without_metrics=False
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            best_fn=None if best is None else lambda scores: scores[best],
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def save(
        self, step: int, state: TrainState, batches: grain.DatasetIterator, scores: Mapping[str, float]
    ) -> None:
        """Save state and iterator position; `scores`, without nan, decide which checkpoint is the best."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(batches.get_state())
        )
        with disk_errors(self._directory, self._kept):  # an earlier save may have failed meanwhile
            self._manager.save(step, args=items, metrics=dict(scores) or None, force=True)

    def restore(
        self, initial: TrainState, batches: grain.DatasetIterator
    ) -> tuple[TrainState, grain.DatasetIterator]:
        """Restore the latest state, placed as `initial` is, and the iterator's position; without one, change nothing.

        Raises:
          InputError: if the state cannot be restored, such as one with other parameters.
        """
        step = self._manager.latest_step()
        if step is None:
            return initial, batches
        position = self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))
        batches.set_state(position["data"])
        return self._restore_state(step, initial), batches

    def choose(self, last: TrainState) -> TrainState:
        """Return the best state, placed as `last` is; `last` itself if it is the best or nothing was scored."""
        with disk_errors(self._directory, self._kept):
            self._manager.wait_until_finished()
        step = None if self._best is None else self._manager.best_step()
        if self._best is not None and step is None:
            say(f"{self._name}: nothing to choose a checkpoint by; the last is kept")
        if step not in (None, self._manager.latest_step()):
            last = self._restore_state(step, last)
            say(f"{self._name}: the best checkpoint is step {step} of {self._manager.latest_step()}")
        return last

    def close(self) -> None:
        """Wait until everything is on disk, and release the folder."""
        with disk_errors(self._directory, self._kept):
            self._manager.close()

    def _kept(self) -> str:
        """The latest checkpoint that is whole; Orbax gives it its name once it is."""
        steps = [int(path.name) for path in self._directory.iterdir() if path.name.isdecimal()]
        return f"the checkpoint of step {max(steps)}" if steps else ""

    def _restore_state(self, step: int, like: TrainState) -> TrainState:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            return self._manager.restore(step, args=items)["state"]
        except ValueError as error:
            reason = first_line(error).rstrip(":")
            raise InputError(
                f"{self._directory}: cannot restore step {step} ({reason}); delete this folder to train from step 0"
            ) from error
