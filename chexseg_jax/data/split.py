"""The split of the expert-annotated images into training and validation."""

import numpy as np
from jaxtyping import Bool, Int

from chexseg_jax.data.taxonomy import COMMON_TASKS, TASKS
from chexseg_jax.errors import InputError


def split_expert(
    positive: Bool[np.ndarray, "N 10"], *, share: float, seed: int
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " V"]]:
    """Splits the annotated images so that scarce pathologies stay in the training part.

    The paper splits 200 into 150 and 50, the 50 drawn among images without the scarce pathologies; it does not
    define scarce. Here: tasks outside `COMMON_TASKS`, from the rarest up, are kept out of the validation part for
    as long as it can still be drawn from images that show a common task, by which checkpoints are judged.

    Args:
      positive: whether image i has a mask of task k.
      share: of the images that go to validation, in (0, 1) (the paper: 0.25).
      seed: of the draw.

    Returns:
      (training rows, validation rows), each ascending.

    Raises:
      InputError: where either part would be empty.
    """
    count = len(positive)
    wanted = round(share * count)
    if not 0 < wanted < count:
        raise InputError(f"{count} annotated images cannot be split with a validation share of {share:g}")
    common = [TASKS.index(task) for task in COMMON_TASKS]
    scarce = [k for k in range(len(TASKS)) if k not in common]
    pool = np.ones(count, bool)
    for k in sorted(scarce, key=lambda k: positive[:, k].sum()):
        remaining = pool & ~positive[:, k]
        if (remaining & positive[:, common].any(1)).sum() < wanted:
            break
        pool = remaining
    validation = np.sort(
        np.random.default_rng([seed, count]).choice(np.flatnonzero(pool), wanted, replace=False)
    )
    return np.setdiff1d(np.arange(count), validation), validation
