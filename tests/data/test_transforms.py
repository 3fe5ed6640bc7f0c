import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.transforms import augment, unpack_masks, view
from chexseg_jax.data.transforms import pack_masks as pack_on_device
from chexseg_jax.models.normalisation import CHEXPERT, IMAGENET, normalise

augmented = jax.jit(augment)


def test_normalise_is_the_published_arithmetic():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for by in (CHEXPERT, IMAGENET):
        expected = (images[..., None] / 255.0 - np.array(by.mean)) / np.array(by.std)
        np.testing.assert_allclose(normalise(jnp.asarray(images), by), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tasks", [1, 10, 64])
def test_bit_planes_are_the_same_on_the_device(tasks):
    masks = np.random.default_rng(0).random((2, 5, 5, tasks)) < 0.5
    np.testing.assert_array_equal(unpack_masks(jnp.asarray(pack_masks(masks)), tasks), masks)
    np.testing.assert_array_equal(pack_on_device(jnp.asarray(masks)), pack_masks(masks))


def test_augment_moves_image_and_masks_alike():
    planes = np.zeros((16, 32, 32, 2), np.uint8)
    planes[:, 8:20, 6:14] = 1, 2
    images = np.where(planes[..., 0] > 0, 200, 40).astype(np.uint8)
    moved, moved_planes = augmented(
        jax.random.split(jax.random.key(0), 16), jnp.asarray(images), jnp.asarray(planes)
    )
    moved, moved_planes = np.asarray(moved), np.asarray(moved_planes)
    assert {tuple(pixel) for pixel in moved_planes.reshape(-1, 2)} == {(0, 0), (1, 2)}
    assert len({p.tobytes() for p in moved_planes}) > 10  # each example has its own draw
    for image, plane in zip(moved, moved_planes, strict=True):
        assert image[plane[..., 0] > 0].min() > image[plane[..., 0] == 0].max()


def test_augment_does_not_depend_on_the_batch_around_an_example():
    keys = jax.random.split(jax.random.key(1), 4)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8))
    whole, _ = augmented(keys, images)
    np.testing.assert_array_equal(augmented(keys[2:], images[2:])[0], whole[2:])


def test_augment_stays_in_range():
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 16, 16), dtype=np.uint8))
    moved, none = augmented(jax.random.split(jax.random.key(2), 8), images)
    assert none is None
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 255


def test_views_differ_by_key_alone_and_stay_in_range():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8))
    make = jax.jit(lambda key: view(key, image, crop=0.3, size=24))
    first, again, other = (np.asarray(make(jax.random.key(k))) for k in (0, 0, 1))
    assert first.shape == (24, 24)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 10
    assert first.min() >= 0
    assert first.max() <= 255


def test_a_view_of_an_even_image_is_even_but_for_its_exposure_and_corners():
    make = jax.jit(lambda key, image: view(key, image, crop=0.5, size=32))
    shown = np.asarray(make(jax.random.key(2), jnp.full((32, 32), 100, jnp.uint8)))
    centre = shown[8:24, 8:24]
    np.testing.assert_allclose(centre, centre[0, 0], rtol=1e-5)
    assert 0.9 * 100 - 8 <= centre[0, 0] <= 1.1 * 100 + 8
