"""How doubtful a prediction is, from the prediction itself. Whether its image can be trusted: `data.reference`."""

import numpy as np
from jaxtyping import Float


def doubt(
    probabilities: Float[np.ndarray, "*S K"], limits: Float[np.ndarray, " K"]
) -> tuple[Float[np.ndarray, " K"], float]:
    """Doubt of each task's mask and of the whole image, in [0, 1].

    A task's doubt is 1 - 2 sum(p m) / (sum(p) + sum(m)) with p its probabilities and m = p > limit: one minus the soft
    Dice of the mask with the probabilities that it was cut from, so an undecided border or faint areas beside the mask
    count. The image's is the mean weighted by the masks' areas. Pass the mean over several models' probabilities to
    count their disagreement too. How well it ranks errors depends on the model (docs/trust.md).

    Args:
      probabilities: of the pixels, without the letterbox's padding or with it.
      limits: thresholds of the tasks.

    Returns:
      (of the tasks, of the image); nan where no pixel is marked: an overlooked finding has no doubt.
    """
    pixels = probabilities.reshape(-1, probabilities.shape[-1]).astype(np.float64)
    masks = pixels > limits
    areas = masks.sum(0)
    shared = np.where(masks, pixels, 0).sum(0)
    tasks = np.where(areas > 0, 1 - 2 * shared / np.maximum(pixels.sum(0) + areas, 1e-9), np.nan)
    return tasks, float(np.nansum(tasks * areas) / areas.sum()) if areas.any() else float("nan")
