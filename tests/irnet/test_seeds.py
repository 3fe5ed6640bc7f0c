import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.irnet.seeds import BACKGROUND, FOREGROUND, IGNORE, seeds


def test_thresholds_part_foreground_ignored_and_background():
    saliency = jnp.array([0.0, 0.049, 0.05, 0.3, 0.31, 1.0])[None, :, None]
    labels = seeds(saliency, jnp.array([True]))
    assert labels[0, :, 0].tolist() == [BACKGROUND, BACKGROUND, IGNORE, IGNORE, FOREGROUND, FOREGROUND]


@given(st.lists(st.booleans(), min_size=3, max_size=3))
def test_what_is_not_there_gives_no_seeds(present):
    saliency = jnp.linspace(0, 1, 48).reshape(4, 4, 3)
    labels = np.asarray(seeds(saliency, jnp.array(present)))
    for k, there in enumerate(present):
        assert (labels[..., k] == IGNORE).all() == (not there)
