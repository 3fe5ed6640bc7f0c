"""A training's Orbax checkpoints: state and data iterator together."""

from collections.abc import Mapping
from pathlib import Path

import grain
import jax
import orbax.checkpoint as ocp

from chexseg_jax.training.state import TrainState


class Checkpoints:
    """A training's checkpoints in one folder: the latest, and the best by one scalar. Saving is asynchronous."""

    def __init__(self, directory: Path, *, best: str | None):
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

    @property
    def latest(self) -> int | None:
        """The last saved step."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step with the largest score."""
        return self._manager.best_step()

    def save(
        self, step: int, state: TrainState, batches: grain.DatasetIterator, scores: Mapping[str, float]
    ) -> None:
        """Saves state and iterator position; `scores` go along for the choice of the best."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(batches.get_state())
        )
        self._manager.save(step, args=items, metrics=dict(scores) or None, force=True)

    def restore(
        self, like: TrainState, batches: grain.DatasetIterator
    ) -> tuple[TrainState, grain.DatasetIterator]:
        """The latest state, placed as `like` is, and the iterator moved to where it was."""
        position = self._manager.restore(self.latest, args=ocp.args.Composite(data=ocp.args.JsonRestore()))
        batches.set_state(position["data"])
        return self.restore_state(self.latest, like), batches

    def restore_state(self, step: int, like: TrainState) -> TrainState:
        """The state saved at `step`, placed as `like` is."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self._manager.restore(step, args=items)["state"]

    def wait(self) -> None:
        """Returns when everything asked for is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the folder."""
        self._manager.close()
