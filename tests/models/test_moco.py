import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden.peers import jit

from chexseg_jax.models import moco
from chexseg_jax.models.layers import BatchNorm, Conv


def unit(rows: int, seed: int) -> jax.Array:
    x = jax.random.normal(jax.random.key(seed), (rows, 16))
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def test_info_nce_is_the_cross_entropy_of_equation_1():
    queries, keys, queue = unit(4, 0), unit(4, 1), unit(10, 2)
    expected, hits = [], []
    for q, k in zip(queries, keys, strict=True):
        scores = np.exp(np.array([q @ k, *(q @ other for other in queue)]) / 0.2)
        expected.append(-np.log(scores[0] / scores.sum()))
        hits.append(scores.argmax() == 0)
    unfilled = jnp.concatenate([queue, unit(3, 3)])
    for rows in (queue, unfilled):
        loss, top1 = moco.info_nce(queries, keys, rows, 10, temperature=0.2)
        assert loss == pytest.approx(np.mean(expected), rel=1e-5)
        assert top1 == pytest.approx(np.mean(hits))


def test_info_nce_of_equal_scores_is_the_logarithm_of_their_number():
    same = jnp.ones((3, 4)) / 2
    loss, _ = moco.info_nce(same, same, jnp.ones((7, 4)) / 2, 7, temperature=0.2)
    assert loss == pytest.approx(np.log(8), rel=1e-6)


class Tiny(nn.Module):
    normalised: bool

    @nn.compact
    def __call__(self, images, train=False):
        x = Conv(16, 3)(images)
        return None, {"features": BatchNorm()(x, train) if self.normalised else nn.relu(x)}


def test_an_encoder_without_batch_normalisation_has_no_statistics():
    embedder, images = moco.Embedder(Tiny(normalised=False)), jnp.ones((4, 6, 6, 3))
    variables = jit(embedder.init)(jax.random.key(0), images)
    embedded, statistics = moco.embed_in_groups(embedder, variables, images, size=2)
    assert embedded.shape == (4, 128)
    assert statistics == {}


def test_groups_have_their_own_statistics():
    embedder = moco.Embedder(Tiny(normalised=True))
    images = jnp.asarray(np.random.default_rng(0).standard_normal((8, 6, 6, 3)), jnp.float32)
    variables = jit(embedder.init)(jax.random.key(0), images[:1])
    embed = jit(lambda x: moco.embed_in_groups(embedder, variables, x, size=4))
    both, statistics = embed(images)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, rtol=1e-5)
    first, its = embed(images[:4])
    second, other = embed(images[4:])
    np.testing.assert_allclose(both, np.concatenate([first, second]), atol=2e-4)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, its, other)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-4), statistics, mean))
