"""The state of a training, and its initial variables."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

PyTree = Any
#: key -> (params, model_state)
Init = Callable[[jax.Array], tuple[PyTree, PyTree]]


class TrainState(struct.PyTreeNode):
    """Everything that a resumed training needs besides the data iterator.

    Attributes:
      step: int32 scalar, the number of finished updates.
      params: changed by the optimizer.
      model_state: replaced by the loss at every step, such as BatchNorm's running statistics or MoCo's queue; {} for
        a module that has no collection but its parameters.
      opt_state: the optimizer's state.
    """

    step: PyTree  # not jax.Array: JAX also builds states of abstract values
    params: PyTree
    model_state: PyTree
    opt_state: PyTree

    @property
    def variables(self) -> dict[str, PyTree]:
        """The collections that a Flax module's `apply` takes."""
        return {"params": self.params, **self.model_state}


def on_host(leaf: PyTree) -> np.ndarray:
    """A replicated array on this machine, without a copy if it is there already."""
    return np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)


@lru_cache(maxsize=4)
def initial_variables(module: nn.Module, size: int, channels: int = 3) -> Init:
    """Make the initialiser of a module for images of side `size`: key -> (params, all other collections).

    Cached for one reason: the runs of a table, which have equal modules, share one compilation.
    """
    compiled = jax.jit(module.init)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables = compiled(key, jnp.zeros((1, size, size, channels)))
        return variables["params"], {name: value for name, value in variables.items() if name != "params"}

    return init
