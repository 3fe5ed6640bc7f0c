"""Losses of the classifier and the segmentation, over the global batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float


def bce_loss(
    logits: Float[Array, "B L"],
    targets: Float[Array, "B L"],
    weights: Float[Array, "B L"],
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Weighted mean of the sigmoid binary cross-entropy: sum_bl w (softplus(z) - y z) / sum_bl w.

    Both sums are over the global batch.

    Args:
      logits: z.
      targets: y in [0, 1].
      weights: w; 0 excludes a label (blank, or uncertain under the `ignore` policy).
      axis_name: the mapped axis that the batch is split over.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits, targets) * weights
    total, count = losses.sum(), weights.sum()
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)


def dice_loss(
    logits: Float[Array, "B H W K"],
    masks: Float[Array, "B H W K"],
    axis_name: str | None = None,
    *,
    known: Bool[Array, "B K"] | Float[Array, "B K"] | None = None,
) -> Float[Array, ""]:
    """Class-average dice over the batch: 1 - mean_k (2 I_k + 1) / (P_k + G_k + 1) (Gadgil et al. 2021).

    I, P and G are the sums over batch and pixels of sigmoid(logits) * masks, sigmoid(logits) and masks. An unknown
    task of an image enters none of them, so its logits get no gradient. The mean is over all K tasks: a task that is
    unknown in the whole batch has a dice of (0 + 1) / (0 + 0 + 1) = 1.

    Args:
      logits: before the sigmoid.
      masks: ground truth in {0, 1}; ignored where unknown.
      axis_name: the mapped axis that the batch is split over; the sums are over the global batch.
      known: which tasks of each image are annotated (0 or False: unknown); None means all.
    """
    if known is not None:
        annotated = known.astype(bool)[:, None, None]
        logits = jnp.where(annotated, logits, -jnp.inf)  # probability 0, gradient 0
        masks = jnp.where(annotated, masks, 0)
    probabilities = jax.nn.sigmoid(logits.astype(jnp.float32))
    masks = masks.astype(jnp.float32)
    sums = [x.sum((0, 1, 2)) for x in (probabilities * masks, probabilities, masks)]
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    intersection, predicted, truth = sums
    return 1 - jnp.mean((2 * intersection + 1) / (predicted + truth + 1))
