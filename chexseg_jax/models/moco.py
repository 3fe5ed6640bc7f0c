"""Momentum contrast, version 2 (Chen et al., 2020, arXiv 2003.04297; on radiographs MoCo-CXR, arXiv 2010.05352)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from chexseg_jax.models.layers import at_least_float32

#: Length of an embedding.
DIMENSIONS = 128


class Embedder(nn.Module):
    """A network's mean feature through MoCo's MLP head, to the unit sphere. `encoder` is any without a head."""

    encoder: nn.Module

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b 128"]:
        """Embeddings of length 1."""
        pooled = at_least_float32(self.encoder(images, train)[1]["features"]).mean((1, 2))
        hidden = nn.relu(nn.Dense(pooled.shape[-1], name="fc_0")(pooled))
        x = nn.Dense(DIMENSIONS, name="fc_2")(hidden)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def info_nce(
    queries: Float[Array, "b d"],
    keys: Float[Array, "b d"],
    queue: Float[Array, "k d"],
    filled: Int[Array, ""] | int,
    *,
    temperature: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The contrastive loss of equation (1): -log of softmax(q.k / temperature) at each query's own key.

    Args:
      queries: unit vectors.
      keys: of the same images' other views; unit vectors.
      queue: keys of earlier batches, the negatives.
      filled: how many of its first rows are; the others are left out. (The published code starts from random vectors.
        Every query is drawn away from those alike, which is towards one point, and small sets never recover.)
      temperature: of the softmax.

    Returns:
      (mean loss, share of queries that are nearest to their own key). Chance is log(k + 1).
    """
    positive = (queries * keys).sum(-1, keepdims=True)
    negative = jnp.where(jnp.arange(len(queue)) < filled, queries @ queue.T, -jnp.inf)
    logits = jnp.concatenate([positive, negative], axis=1) / temperature
    loss = (jax.nn.logsumexp(logits, axis=1) - logits[:, 0]).mean()
    return loss, (logits.argmax(1) == 0).mean()


def embed_in_groups(
    embedder: nn.Module, variables: Mapping[str, Any], images: Float[Array, "b h w c"], *, size: int
) -> tuple[Float[Array, "b 128"], Any]:
    """Embeddings in training mode, with batch statistics over groups of `size` consecutive images only.

    What a batch normalisation tells about the rest of the batch would give a query's key away. Queries and keys in
    different groups (the keys are shuffled by the caller) cannot tell each other so: MoCo's shuffled BatchNorm, on
    any number of devices.

    Returns:
      The embeddings, and the running statistics, averaged over the groups.
    """
    groups = images.reshape(-1, size, *images.shape[1:])
    embedded, updated = jax.vmap(
        lambda group: embedder.apply(variables, group, train=True, mutable=["batch_stats"])
    )(groups)
    statistics = jax.tree.map(lambda x: x.mean(0), updated["batch_stats"])
    return embedded.reshape(-1, embedded.shape[-1]), statistics
