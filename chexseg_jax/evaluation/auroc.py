"""Area under the receiver operating characteristic."""

import numpy as np
from jaxtyping import Float


def auroc(scores: Float[np.ndarray, "N K"], labels: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " K"]:
    """The probability that a positive scores above a negative, ties counting half (Mann-Whitney U / (n+ n-)).

    Args:
      scores: any real numbers; higher means more likely positive.
      labels: 1 and 0; every other value (uncertain, blank) is left out.

    Returns:
      One value per column; nan without positives or without negatives.
    """
    result = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        known = np.isin(labels[:, k], (0, 1))
        is_positive = labels[known, k] == 1
        positives, negatives = scores[known, k][is_positive], np.sort(scores[known, k][~is_positive])
        if len(positives) and len(negatives):
            lower = sum(np.searchsorted(negatives, positives, side).sum() for side in ("left", "right")) / 2
            result[k] = lower / (len(positives) * len(negatives))
    return result
