"""The losses of the classifier and of the segmentation, over the global batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def bce_loss(
    logits: Float[Array, "B K"],
    targets: Float[Array, "B K"],
    weights: Float[Array, "B K"],
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Sigmoid binary cross-entropy, averaged over the labels that count.

    sum_bk w (softplus(z) - y z) / sum_bk w, with both sums over the global batch.

    Args:
      logits: z.
      targets: y in [0, 1].
      weights: w; 0 leaves a label out (blank or uncertain under the `ignore` policy).
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
) -> Float[Array, ""]:
    """Class-average dice over the batch: 1 - mean_c (2 I_c + 1) / (P_c + G_c + 1) (Gadgil et al. 2021).

    I, P and G are the sums over batch and pixels of sigmoid(logits) * masks, sigmoid(logits) and masks.

    Args:
      logits: before the sigmoid.
      masks: ground truth in {0, 1}.
      axis_name: the mapped axis that the batch is split over; the sums are over the global batch.
    """
    probabilities = jax.nn.sigmoid(logits.astype(jnp.float32))
    masks = masks.astype(jnp.float32)
    sums = [x.sum((0, 1, 2)) for x in (probabilities * masks, probabilities, masks)]
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    intersection, predicted, truth = sums
    return 1 - jnp.mean((2 * intersection + 1) / (predicted + truth + 1))
