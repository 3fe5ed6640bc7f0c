"""A training's Orbax checkpoints: state and data iterator together, with checksums of both.

Orbax itself reads most flipped bits of an array as other values.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from chexseg_jax.errors import DamagedError, InputError, disk_errors, first_line
from chexseg_jax.progress import say
from chexseg_jax.training.state import TrainState, on_host

_T = TypeVar("_T")
_SEAL = "seal"


class Checkpoints:
    """A training's checkpoints in one folder: the latest, and the best by one scalar. Saving is asynchronous.

    Args:
      directory: is created.
      name: the training's name in progress lines.
      best: the scalar to choose by, larger is better; None keeps only the latest.

    Raises:
      DamagedError: by all methods that read, for a checkpoint that is not what was written.
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
            # Else the other processes wait for process 0's folders by a count of Orbax's saves. Process 0, which alone
            # saves models, is ahead in it; they do not wait, and it deletes what they have written.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._manager = self._read(lambda: ocp.CheckpointManager(directory.absolute(), options=options))

    def save(
        self, step: int, state: TrainState, batches: grain.DatasetIterator, scores: Mapping[str, float]
    ) -> None:
        """Save state and iterator position; `scores`, without nan, decide which checkpoint is the best."""
        sums = {
            jax.tree_util.keystr(path): _checksum(leaf) for path, leaf in jax.tree.leaves_with_path(state)
        }
        card = {"position": batches.get_state(), "scores": dict(scores), "state": sums}
        card = json.loads(json.dumps(card))  # as it will be read, for the seal
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(card | {_SEAL: _seal(card)})
        )
        with disk_errors(self._directory, self.kept):  # an earlier save may have failed meanwhile
            self._manager.save(step, args=items, metrics=dict(scores) or None, force=True)

    def restore(
        self, initial: TrainState, batches: grain.DatasetIterator
    ) -> tuple[TrainState, grain.DatasetIterator]:
        """Restore the latest state, placed as `initial` is, and the iterator's position; if none, change nothing."""
        latest = self._manager.latest_step()
        if latest is None:
            return initial, batches
        cards = {step: self._card(step) for step in self._manager.all_steps()}  # of the best, too
        self._read(lambda: batches.set_state(cards[latest]["position"]), latest)
        return self._restore_state(latest, initial, cards[latest]), batches

    def choose(self, last: TrainState) -> TrainState:
        """Return the best state, placed as `last` is; `last` itself if it is the best or nothing was scored."""
        self.wait()
        step = None if self._best is None else self._manager.best_step()
        if self._best is not None and step is None:
            say(f"{self._name}: nothing to choose a checkpoint by; the last is kept")
        if step not in (None, self._manager.latest_step()):
            last = self._restore_state(step, last, self._card(step))
            say(f"{self._name}: the best checkpoint is step {step} of {self._manager.latest_step()}")
        return last

    def wait(self) -> None:
        """Wait until everything is on disk."""
        with disk_errors(self._directory, self.kept):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until everything is on disk, and release the folder."""
        with disk_errors(self._directory, self.kept):
            self._manager.close()

    def kept(self) -> str:
        """The latest checkpoint that is whole; Orbax gives it its name once it is."""
        steps = [int(path.name) for path in self._directory.iterdir() if path.name.isdecimal()]
        return f"the checkpoint of step {max(steps)}" if steps else ""

    def _card(self, step: int) -> dict[str, Any]:
        """The iterator's position, the scores and the state's checksums, which earlier versions did not write."""
        items = ocp.args.Composite(data=ocp.args.JsonRestore())
        card = self._read(lambda: self._manager.restore(step, args=items)["data"], step)
        if not {"position", "scores", "state", _SEAL} & set(card):
            return {"position": card, "state": None}
        if card.pop(_SEAL, None) != _seal(card):
            raise self._damaged("its data item is not what was written", step)
        if (self._manager.metrics(step) or {}) != card["scores"]:
            raise self._damaged("its metrics are not what was written", step)
        return card

    def _restore_state(self, step: int, like: TrainState, card: Mapping[str, Any]) -> TrainState:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        state = self._read(lambda: self._manager.restore(step, args=items)["state"], step)
        for path, leaf in jax.tree.leaves_with_path(state) if card["state"] else ():
            if card["state"].get(name := jax.tree_util.keystr(path)) != _checksum(leaf):
                raise self._damaged(f"{name} is not what was written", step)
        return state

    def _read(self, read: Callable[[], _T], step: int | None = None) -> _T:
        """What `read` returns. A damaged file may make Orbax and TensorStore raise anything."""
        try:
            with disk_errors(self._directory):
                return read()
        except InputError:
            raise
        except Exception as error:
            raise self._damaged(first_line(error).rstrip(":"), step) from error

    def _damaged(self, reason: str, step: int | None) -> DamagedError:
        if step is None:
            return DamagedError(f"{self._directory}: {reason}; delete this folder to train from step 0")
        return DamagedError(
            f"{self._directory / str(step)}: cannot restore ({reason}); delete this folder to resume from the "
            "checkpoint before it, or from step 0 if there is none"
        )


def _checksum(leaf: Any) -> int:
    """The CRC-32 of an array that is equal on all processes."""
    return zlib.crc32(np.ascontiguousarray(on_host(leaf)).reshape(-1).view(np.uint8).data)


def _seal(card: Mapping[str, Any]) -> int:
    """The CRC-32 of a JSON object, whatever the order of its keys."""
    return zlib.crc32(json.dumps(card, sort_keys=True).encode())
