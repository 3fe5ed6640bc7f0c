"""A yardstick for scores: one centred box per task, as large as the task's mean mask."""

import math

import numpy as np
from jaxtyping import Bool, Float

from chexseg_jax.data.images import Frame
from chexseg_jax.data.prepared import Prepared


def mask_shares(annotated: Prepared) -> Float[np.ndarray, " K"]:
    """Mean area of a task's masks as a share of the image without its padding.

    The mean is over the images with a known, non-empty mask; 0 if there are none.
    """
    shares = np.zeros((len(annotated), len(annotated.taxonomy.tasks)))
    for i, (height, width) in enumerate(annotated.sizes):
        rows, columns = Frame(int(height), int(width), annotated.size).content
        shares[i] = annotated.read_masks(i).sum((0, 1)) / (rows * columns)
    has_mask = annotated.has_mask()
    return (shares * has_mask).sum(0) / np.maximum(has_mask.sum(0), 1)


def centred_boxes(size: tuple[int, int], shares: Float[np.ndarray, " K"]) -> Bool[np.ndarray, "H W K"]:
    """One centred box per task, with the image's aspect and the task's share of its area."""
    height, width = size
    boxes = np.zeros((height, width, len(shares)), bool)
    for k, share in enumerate(shares):
        h, w = round(height * math.sqrt(share)), round(width * math.sqrt(share))
        top, left = (height - h) // 2, (width - w) // 2
        boxes[top : top + h, left : left + w, k] = True
    return boxes
