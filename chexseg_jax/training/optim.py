"""The optimizers of the four trainings, with their published settings."""

from functools import lru_cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


@lru_cache(maxsize=4)
def adam(
    learning_rate: float, *, warmup_steps: int = 0, decay_steps: int = 0
) -> optax.GradientTransformation:
    """Make Adam (b1 0.9, b2 0.999) as in the paper; the rate is constant by default.

    Cached for one reason: equal settings return the same object, so the runs of a table share one compiled step.

    Args:
      learning_rate: the peak rate.
      warmup_steps: the rate rises linearly from zero over these steps.
      decay_steps: if positive, a cosine brings the rate to zero at this step.
    """
    rise = optax.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else None
    if decay_steps:
        after = optax.cosine_decay_schedule(learning_rate, max(decay_steps - warmup_steps, 1))
    else:
        after = optax.constant_schedule(learning_rate)
    schedule = optax.join_schedules([rise, after], [warmup_steps]) if rise else after
    return _vectors_joined(optax.adam(schedule, b1=0.9, b2=0.999))


def sgd(
    learning_rate: float, *, steps: int, power: float = 0.9, momentum: float = 0.0
) -> optax.GradientTransformation:
    """Make stochastic gradient descent at the rate learning_rate (1 - step / steps)^power, as IRNet is trained.

    Args:
      learning_rate: the rate of the first step.
      steps: updates in all.
      power: of the polynomial decay.
      momentum: 0 for none. The published code passes its weight decay, 1e-4, as momentum by mistake.
    """
    schedule = optax.polynomial_schedule(learning_rate, 0.0, power, steps)
    return optax.sgd(schedule, momentum=momentum or None)


def sgd_cosine(
    learning_rate: float, *, steps: int, momentum: float = 0.9, weight_decay: float = 1e-4
) -> optax.GradientTransformation:
    """Make SGD with momentum whose rate a cosine brings to zero over `steps`, as MoCo v2 is trained.

    Weight decay is added to the gradient before the momentum, as in PyTorch.
    """
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum))


def _vectors_joined(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, which treats every number alike, on the same parameters with all vectors joined to one.

    Two of three parameters of a DenseNet are BatchNorm's vectors, and an update of each is traced, compiled and started
    on its own: joined, tracing its step and loading the program took 7.0 s in the place of 8.0.
    """

    def join(tree: Any) -> tuple[list[jax.Array], jax.Array]:
        leaves = jax.tree.leaves(tree)
        vectors = [leaf.ravel() for leaf in leaves if leaf.ndim < 2]
        return [leaf for leaf in leaves if leaf.ndim > 1], jnp.concatenate([*vectors, jnp.zeros(0)])

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        (others, joined), state = inner.update(
            join(gradients), state, None if params is None else join(params)
        )
        leaves, structure = jax.tree.flatten(gradients)
        ends = np.cumsum([0, *(leaf.size for leaf in leaves if leaf.ndim < 2)])
        vectors, others = iter(joined[a:b] for a, b in pairwise(ends)), iter(others)
        parts = [next(vectors).reshape(leaf.shape) if leaf.ndim < 2 else next(others) for leaf in leaves]
        return jax.tree.unflatten(structure, parts), state

    return optax.GradientTransformation(lambda params: inner.init(join(params)), update)
