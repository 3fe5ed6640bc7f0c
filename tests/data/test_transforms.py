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


def test_augment_draws_flips_shifts_zooms_and_exposures_of_its_ranges():
    """Read off images of which each pixel says where it came from: bytes 1 and 2 of a plane are its row and column."""
    side, count = 100, 300
    place = np.stack(np.mgrid[:side, :side], -1).astype(np.uint8) + 1
    grey = place[..., 0] + 50  # with the largest gain and offset still below 255
    keys = jax.random.split(jax.random.key(3), count)
    moved, sources = map(np.asarray, augmented(keys, np.stack([grey] * count), np.stack([place] * count)))
    slopes, shifts, exposures = [], [], []
    for image, source in zip(moved, sources, strict=True):
        lines = (
            source[..., 0].max(1),
            source[..., 1].max(0),
        )  # the source's row of each row, column of each column
        fits = [np.polyfit(np.flatnonzero(line), line[line > 0] - 1.0, 1) for line in lines]
        middle = (side - 1) / 2
        slopes.append([slope for slope, _ in fits])
        shifts.append([slope * middle + start - middle for slope, start in fits])
        inside = source[..., 0] > 0
        exposures.append(np.polyfit(source[inside, 0] + 50.0, image[inside], 1))
        np.testing.assert_allclose(
            image[inside], np.polyval(exposures[-1], source[inside, 0] + 50.0), atol=0.01
        )
    (down, across), (gain, offset) = np.transpose(slopes), np.transpose(exposures)
    assert (down > 0).all()
    assert (across < 0).mean() == pytest.approx(0.5, abs=0.12)
    np.testing.assert_allclose(np.abs(across), down, atol=0.03)  # nearest pixels
    for values, low, high in (
        (1 / down, 0.9, 1.1),
        *((move, -6, 6) for move in np.transpose(shifts)),
        (gain, 0.85, 1.15),
        (offset, -12, 12),
    ):
        slack = 0.05 * (high - low)
        assert low - slack < values.min() < low + slack
        assert high - slack < values.max() < high + slack
    assert abs(np.corrcoef(np.transpose(shifts))[0, 1]) < 0.2


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


def test_views_are_crops_turns_flips_and_exposures_of_their_ranges():
    """Read off four images with the same key: two even ones give the exposure, two ramps where each pixel came from."""
    side, size, crop, count = 64, 33, 0.5, 200
    rows, columns = np.mgrid[:side, :side]
    images = np.stack([np.full((side, side), 50), np.full((side, side), 150), 3 * rows, 3 * columns]).astype(
        np.uint8
    )
    see = jax.jit(jax.vmap(jax.vmap(lambda k, x: view(k, x, crop=crop, size=size), (None, 0)), (0, None)))
    grid = np.stack(np.mgrid[:size, :size], -1).reshape(-1, 2) - (size - 1) / 2
    matrices, centres, exposures = [], [], []
    for shown in np.asarray(see(jax.random.split(jax.random.key(4), count), images)).reshape(count, 4, -1):
        middle = len(grid) // 2
        gain = (shown[1, middle] - shown[0, middle]) / 100
        offset = shown[0, middle] - 50 * gain
        exposures.append((gain, offset))
        inside = np.isclose(shown[1], shown[1, middle], atol=1e-3)  # the rest is black, or clipped
        at = (shown[2:, inside] - offset) / (3 * gain)
        inside[inside] = ((at > 1) & (at < side - 2)).all(0) & (shown[2:, inside] > 0).all(0)
        at = (shown[2:, inside] - offset) / (3 * gain)
        fit, *_ = np.linalg.lstsq(np.column_stack([grid[inside], np.ones(inside.sum())]), at.T, rcond=None)
        matrices.append(fit[:2].T)
        centres.append(fit[2] - (side - 1) / 2)
    matrices = np.array(matrices)
    zoom = np.linalg.norm(matrices[:, :, 0], axis=1) * size / side
    for matrix, length in zip(
        matrices, zoom * side / size, strict=True
    ):  # a turn, maybe mirrored, and nothing else
        np.testing.assert_allclose(matrix.T @ matrix, length**2 * np.eye(2), atol=0.01)
    assert (np.linalg.det(matrices) < 0).mean() == pytest.approx(0.5, abs=0.15)
    assert (zoom**2).mean() == pytest.approx((crop + 1) / 2, abs=0.04)
    room = 0.5 * (1 - zoom[:, None]) * (side - 1)
    assert (np.abs(centres) < room + 0.1).all()
    gain, offset = np.transpose(exposures)
    for values, low, high in (
        (zoom**2, crop, 1),
        (np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])), -10, 10),
        (np.array(centres)[zoom < 0.9] / room[zoom < 0.9], -1, 1),
        (gain, 0.9, 1.1),
        (offset, -8, 8),
    ):
        slack = 0.05 * (high - low)
        assert low - slack < values.min() < low + slack
        assert high - slack < values.max() < high + slack
