"""Losses, updates and variables that are not finite: named, skipped on request, never saved."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chexseg_jax.errors import InputError
from chexseg_jax.progress import say
from chexseg_jax.training.checkpoint import Checkpoints
from chexseg_jax.training.state import PyTree, on_host


class Watch:
    """Ends a training at its first step that is not sound, or lets so many be skipped.

    Args:
      name: the training's name in progress lines.
      skip_steps: how many may be skipped.
      checkpoints: of the training; all are from before such a step.
      log: (step, scalars) -> None; gets the number of steps `skipped` so far.
    """

    def __init__(
        self,
        name: str,
        skip_steps: int,
        checkpoints: Checkpoints,
        log: Callable[[int, Mapping[str, float]], None],
    ):
        self._name, self._checkpoints, self._log = name, checkpoints, log
        self._most, self._skipped = skip_steps, 0
        self._steps: deque[tuple[int, Any, jax.Array, jax.Array]] = deque()

    def add(self, step: int, ids: Any, loss: jax.Array, sound: jax.Array) -> None:
        """Note a step, whose values are not waited for, and the ids of its images (or none)."""
        self._steps.append((step, ids, loss, sound))

    def check(self, last: int, variables: PyTree | None = None) -> None:
        """Look at the steps up to `last`, waiting for them, and then at the variables after it, if given.

        Raises:
          InputError: naming the first step that is not sound and may not be skipped, and its images, or a variable that
            is not finite; and the last checkpoint.
        """
        while self._steps and self._steps[0][0] <= last:
            step, ids, loss, sound = self._steps.popleft()
            if sound:
                continue
            wrong = "the update is not finite" if math.isfinite(loss) else f"the loss is {float(loss)}"
            wrong += f" at step {step}" + (f" on the images {', '.join(ids)}" if len(ids) else "")
            self._skipped += 1
            if self._skipped > self._most:
                raise self._error(wrong)
            say(f"{self._name}: {wrong}; skipped, {self._skipped} of at most {self._most}")
            self._log(step, {"skipped": float(self._skipped)})
        if bad := not_finite(variables):
            raise self._error(f"{bad} is not finite after step {last}")

    def _error(self, wrong: str) -> InputError:
        self._checkpoints.wait()
        resumed = f", which resumes from {kept}" if (kept := self._checkpoints.kept()) else ""
        return InputError(
            f"{self._name}: {wrong}; lower the learning rate, correct the images, or give config.skip_steps, and rerun "
            f"the command{resumed}"
        )


def is_finite(tree: PyTree) -> jax.Array:
    """Whether all floating-point values are finite; for a compiled step."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()


def not_finite(tree: PyTree) -> str | None:
    """The name of the first array that holds nan or infinity, such as `['params']['head']['bias']`."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        # A sum shows it in a single pass without a copy.
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(on_host(leaf).sum(dtype=np.float32)):
            return jax.tree_util.keystr(path)
    return None
