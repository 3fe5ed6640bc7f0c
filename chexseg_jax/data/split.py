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
      segmentations: the radiologists' masks, of all or some of the images; None for the weakly labelled split.
      second_reader: another radiologist's masks of the same images, if any.
      fingerprint: changes with the files, see `sources.fingerprint`; it stands for the split in artifacts' names.
    """

    name: str
    studies: Studies
    segmentations: Segmentations | None
    second_reader: Segmentations | None
    fingerprint: str


def split_expert(
    positive: Bool[np.ndarray, "N K"],
    patients: Sequence[str],
    common: Sequence[int],
    *,
    validation: float,
    seed: int,
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " V"]]:
    """Split the images with masks by patient, so that scarce tasks stay in the training part.

    The paper splits 200 into 150 and 50, the 50 drawn among images without the scarce pathologies; it does not
    define scarce. Here scarce tasks are those outside `common`. From the rarest up, the patients with a mask of the
    task are kept out of the validation part for as long as the others have enough images with a common task, on which
    checkpoints are chosen.

    Patients are drawn in random order, each with all images. A patient who would exceed the wanted number of validation
    images is passed over. If the number is not reached this way, the passed-over patient with the fewest images is
    added where that comes closer to it.

    Args:
      positive: whether image i has a mask of task k.
      patients: of each of the N images.
      common: positions of the tasks that checkpoints are chosen by.
      validation: how many images go to validation: a share of N in (0, 1) (the paper: 0.25), or a number of at least 1
        (its published code: 40).
      seed: of the draw.

    Returns:
      (training rows, validation rows), each ascending.

    Raises:
      InputError: if either part would be empty.
    """
    count = len(positive)
    _, patient = np.unique(np.asarray(patients, str), return_inverse=True)
    sizes = np.bincount(patient)
    wanted = round(validation * count if validation < 1 else validation)
    if not 0 < wanted < count or len(sizes) < 2:
        raise InputError(
            f"{count} images with masks (patients: {len(sizes)}) cannot be split by patient into training and {wanted} "
            f"validation images; set config.data.validation (={validation:g}) so that each part gets a patient"
        )
    pool = _without_scarce(positive, patient, common, wanted)
    chosen = _draw(np.random.default_rng([seed, count]).permutation(np.unique(patient[pool])), sizes, wanted)
    in_validation = np.isin(patient, chosen)
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def _without_scarce(
    positive: Bool[np.ndarray, "N K"], patient: Int[np.ndarray, " N"], common: Sequence[int], wanted: int
) -> Bool[np.ndarray, " N"]:
    """The images that validation is drawn from."""
    pool = np.ones(len(positive), bool)
    scarce = [k for k in range(positive.shape[1]) if k not in common]
    for k in sorted(scarce, key=lambda k: positive[:, k].sum()):
        remaining = pool & ~np.isin(patient, patient[positive[:, k]])
        if (remaining & positive[:, list(common)].any(1)).sum() < wanted:
            break
        pool = remaining
    return pool


def _draw(order: Int[np.ndarray, " P"], sizes: Int[np.ndarray, " Q"], wanted: int) -> list[int]:
    """The patients of the validation part: P in the order of the draw, `sizes` the images of each of all Q."""
    chosen: list[int] = []
    passed: list[int] = []
    total = 0
    for one in order.tolist():
        fits = total + sizes[one] <= wanted
        (chosen if fits else passed).append(one)
        total += int(sizes[one]) * bool(fits)
    if passed and total < wanted:
        smallest = min(passed, key=lambda one: sizes[one])
        more = total + int(sizes[smallest])
        if not chosen or (more - wanted < wanted - total and more < sizes.sum()):
            chosen.append(smallest)
    return chosen
