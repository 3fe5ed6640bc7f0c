"""The optimizers of the four trainings, with their published settings."""

from functools import lru_cache

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
    return optax.adam(schedule, b1=0.9, b2=0.999)


def sgd(
    learning_rate: float, *, steps: int, power: float = 0.9, momentum: float = 0.0
) -> optax.GradientTransformation:
    """Make stochastic gradient descent at the rate learning_rate (1 - step / steps)^power, as IRNet is trained.

    Args:
      learning_rate: the rate of the first step.
      steps: updates in all.
      power: of the polynomial decay.
      momentum: 0 for none. IRNet's code passes its weight decay, 1e-4, as momentum by mistake; CheXseg's passes 0.
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
