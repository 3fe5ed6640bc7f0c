import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.irnet.seeds import BACKGROUND, FOREGROUND, IGNORE, pack_seeds, seeds, unpack_seeds


def test_thresholds_separate_background_ignored_and_foreground():
    saliency = jnp.array([0.0, 0.049, 0.05, 0.3, 0.31, 1.0])[None, :, None]
    labels = seeds(saliency, jnp.array([True]))
    assert labels[0, :, 0].tolist() == [BACKGROUND, BACKGROUND, IGNORE, IGNORE, FOREGROUND, FOREGROUND]


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_an_absent_pathology_has_no_seeds(present):
    saliency = jnp.linspace(0, 1, 48).reshape(4, 4, 3)
    labels = np.asarray(seeds(saliency, jnp.array(present)))
    for k, is_present in enumerate(present):
        assert (labels[..., k] == IGNORE).all() == (not is_present)


@pytest.mark.parametrize(("tasks", "planes"), [(1, 1), (10, 2), (33, 5), (64, 8)])
def test_packed_seeds_unpack_to_the_same_labels(tasks, planes):
    draw = np.random.default_rng(tasks)
    labels = jnp.asarray(draw.choice([BACKGROUND, FOREGROUND, IGNORE], (2, 5, 3, tasks)), jnp.uint8)
    packed = pack_seeds(labels)
    assert packed.shape == (2, 5, 3, 2 * planes)
    assert packed.dtype == jnp.uint8
    np.testing.assert_array_equal(unpack_seeds(packed, tasks), labels)


def test_foreground_bits_come_before_background_bits():
    labels = np.full(10, IGNORE, np.uint8)
    labels[[0, 9]], labels[3] = FOREGROUND, BACKGROUND
    assert pack_seeds(jnp.asarray(labels)).tolist() == [1, 2, 8, 0]
