"""Momentum contrast, version 2 (Chen et al., 2020, arXiv 2003.04297; on radiographs MoCo-CXR, arXiv 2010.05352)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from chexseg_jax.models.layers import PRECISION, at_least_float32

#: Length of an embedding.
DIMENSIONS = 128


class Embedder(nn.Module):
    """A network's mean feature through MoCo's MLP head, on the unit sphere.

    Attributes:
      encoder: returns (logits or None, {"features": the last map}).
    """

    encoder: nn.Module

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b 128"]:
        """Embeddings of length 1."""
        pooled = at_least_float32(self.encoder(images, train)[1]["features"]).mean((1, 2))
        hidden = nn.relu(nn.Dense(pooled.shape[-1], precision=PRECISION, name="fc_0")(pooled))
        x = nn.Dense(DIMENSIONS, precision=PRECISION, name="fc_2")(hidden)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def info_nce(
    queries: Float[Array, "b d"],
    keys: Float[Array, "b d"],
    queue: Float[Array, "k d"],
    filled: Int[Array, ""] | int,
    *,
    temperature: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The contrastive loss of equation (1): -log softmax(q.k / temperature) at each query's own key.

    Args:
      queries: unit vectors.
      keys: of the same images' other views; unit vectors.
      queue: keys of earlier batches, the negatives.
      filled: number of its first rows that are keys; the others are left out. (The published code fills them with
        random vectors. These push all queries towards one point, from which training on a small set never recovers.)
      temperature: of the softmax.

    Returns:
      (mean loss, share of queries nearest to their own key). At chance the loss is log(k + 1).
    """
    positive = (queries * keys).sum(-1, keepdims=True)
    negative = jnp.matmul(queries, queue.T, precision=PRECISION)
    negative = jnp.where(jnp.arange(len(queue)) < filled, negative, -jnp.inf)
    logits = jnp.concatenate([positive, negative], axis=1) / temperature
    loss = (jax.nn.logsumexp(logits, axis=1) - logits[:, 0]).mean()
    return loss, (logits.argmax(1) == 0).mean()


def embed_in_groups(
    embedder: nn.Module, variables: Mapping[str, Any], images: Float[Array, "b h w c"], *, size: int
) -> tuple[Float[Array, "b 128"], Any]:
    """Embeddings in training mode, with batch statistics over groups of `size` consecutive images only.

    Statistics shared by a query and its key would give the key away. The caller shuffles the keys, so that the two lie
    in different groups: MoCo's shuffled BatchNorm, on any number of devices.

    Args:
      embedder: an `Embedder`.
      variables: its variables.
      images: normalised.
      size: images in a group; it divides the batch.

    Returns:
      The embeddings, and the running statistics, averaged over the groups ({} for an encoder without any).
    """
    groups = images.reshape(-1, size, *images.shape[1:])
    embedded, updated = jax.vmap(
        lambda group: embedder.apply(variables, group, train=True, mutable=["batch_stats"])
    )(groups)
    statistics = jax.tree.map(lambda x: x.mean(0), updated.get("batch_stats", {}))
    return embedded.reshape(-1, embedded.shape[-1]), statistics
