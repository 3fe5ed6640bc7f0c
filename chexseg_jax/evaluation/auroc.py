"""Area under the receiver operating characteristic."""

import numpy as np
from jaxtyping import Float


def auroc(scores: Float[np.ndarray, "N K"], labels: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " K"]:
    """The chance that a positive is scored above a negative, ties counting half (Mann-Whitney U / (n+ n-)).

    Args:
      scores: any real numbers, higher meaning more likely positive.
      labels: 1 and 0; everything else (uncertain, blank) is left out.

    Returns:
      One value a column; nan where positives or negatives are missing.
    """
    result = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        known = np.isin(labels[:, k], (0, 1))
        positive = labels[known, k] == 1
        positives, negatives = positive.sum(), (~positive).sum()
        if positives and negatives:
            below = np.sort(scores[known, k][~positive])
            ours = scores[known, k][positive]
            beaten = sum(np.searchsorted(below, ours, side).sum() for side in ("left", "right")) / 2
            result[k] = beaten / (positives * negatives)
    return result
