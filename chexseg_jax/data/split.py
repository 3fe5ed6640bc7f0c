"""Splits: a data set's own, as its files hold them, and that of the expert images into training and validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from chexseg_jax.data.chexlocalize import Segmentations
from chexseg_jax.data.chexpert import Studies
from chexseg_jax.errors import InputError


@dataclass(frozen=True)
class Split:
    """A split as its files hold it.

    Attributes:
      name: train, valid or test.
      studies: the table's rows.
      segmentations: the radiologists' masks; None for the weakly labelled split.
      second_reader: another radiologist's masks of the same images, if any.
      fingerprint: changes with the files, see `sources.fingerprint`; it stands for the split in artifacts' names.
    """

    name: str
    studies: Studies
    segmentations: Segmentations | None
    second_reader: Segmentations | None
    fingerprint: str


def split_expert(
    positive: Bool[np.ndarray, "N K"], common: Sequence[int], *, share: float, seed: int
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " V"]]:
    """Split the annotated images so that scarce tasks stay in the training part.

    The paper splits 200 into 150 and 50, the 50 drawn among images without the scarce pathologies; it does not
    define scarce. Here scarce tasks are those outside `common`. From the rarest up, each is kept out of the
    validation part for as long as that part can still be drawn from images with a common task, on which checkpoints
    are chosen.

    Args:
      positive: whether image i has a mask of task k.
      common: positions of the tasks that checkpoints are chosen by.
      share: of the images that go to validation, in (0, 1) (the paper: 0.25).
      seed: of the draw.

    Returns:
      (training rows, validation rows), each ascending.

    Raises:
      InputError: if either part would be empty.
    """
    count, tasks = positive.shape
    wanted = round(share * count)
    if not 0 < wanted < count:
        raise InputError(f"{count} annotated images cannot be split with a validation share of {share:g}")
    scarce = [k for k in range(tasks) if k not in common]
    pool = np.ones(count, bool)
    for k in sorted(scarce, key=lambda k: positive[:, k].sum()):
        remaining = pool & ~positive[:, k]
        if (remaining & positive[:, list(common)].any(1)).sum() < wanted:
            break
        pool = remaining
    rng = np.random.default_rng([seed, count])
    validation = np.sort(rng.choice(np.flatnonzero(pool), wanted, replace=False))
    return np.setdiff1d(np.arange(count), validation), validation
