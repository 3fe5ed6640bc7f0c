"""What a training carries from step to step."""

from typing import Any

import jax
import optax
from flax import struct

PyTree = Any


class TrainState(struct.PyTreeNode):
    """Everything that a resumed training needs besides the data iterator.

    Attributes:
      step: int32 scalar, the number of finished updates.
      params: what the optimizer changes.
      model_state: what the loss replaces at every step: BatchNorm's running statistics, MoCo's queue...
      opt_state: the optimizer's own.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, PyTree]:
        """The collections a Flax module's `apply` takes."""
        return {"params": self.params, **self.model_state}
