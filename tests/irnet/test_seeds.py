import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.irnet.seeds import BACKGROUND, FOREGROUND, IGNORE, crf_seeds, mean_field, seeds


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


def square(side=24):
    """A bright square on dark ground, and a mask of it that lies two rows too low."""
    image = np.full((side, side), 40.0, np.float32)
    image[6:18, 6:18] = 200
    mask = np.zeros((side, side, 1), bool)
    mask[8:20, 6:18] = True
    return image, mask


def test_the_field_moves_a_mask_to_the_edge_in_the_image():
    image, mask = square()
    refined = np.asarray(mean_field(mask, image))[..., 0] > 0.5
    np.testing.assert_array_equal(refined, image > 100)


def test_without_neighbours_the_unary_stays():
    image, mask = square()
    alone = mean_field(mask, image, smooth_weight=0.0, contrast_weight=0.0, confidence=0.8)
    np.testing.assert_allclose(alone, np.where(mask, 0.8, 0.2), rtol=1e-5)


def test_crf_seeds_are_ordered_as_plain_ones_are():
    image, mask = square()
    saliency = np.where(mask, 0.9, 0.0).astype(np.float32)
    labels = np.asarray(crf_seeds(saliency, jnp.array([True]), image))[..., 0]
    assert labels[12, 12] == FOREGROUND
    assert labels[6, 12] == FOREGROUND  # the square's rim, which the mask left out
    assert labels[19, 12] == BACKGROUND  # where it went beyond
    assert labels[1, 1] == BACKGROUND
    assert (np.asarray(crf_seeds(saliency, jnp.array([False]), image)) == IGNORE).all()
