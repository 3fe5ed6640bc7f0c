import io
import struct
import zlib
from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.images import (
    Frame,
    fit_image,
    fit_mask,
    pack_masks,
    read_grey,
    read_radiograph,
    unfit_map,
    unfit_mask,
    unpack_masks,
)
from chexseg_jax.errors import InputError

sides = st.integers(1, 70)
masks = hnp.arrays(bool, st.tuples(sides, sides))


@pytest.mark.parametrize(
    ("shape", "content", "corner"),
    [
        ((2320, 2828), (262, 320), (29, 0)),
        ((2022, 1751), (320, 277), (0, 21)),
        ((320, 320), (320, 320), (0, 0)),
        ((100, 200), (160, 320), (80, 0)),  # smaller than the square: enlarged
        ((3000, 4), (320, 1), (0, 159)),  # thinner than a pixel: one all the same
    ],
)
def test_frame_is_the_published_letterbox(shape, content, corner):
    frame = Frame(*shape, 320)
    assert frame.content == content
    assert frame.corner == corner


@given(sides, sides, sides)
def test_frame_keeps_aspect_and_stays_inside(height, width, size):
    frame = Frame(height, width, size)
    (rows, columns), (top, left) = frame.content, frame.corner
    assert max(rows, columns) == size
    assert 0 <= top <= size - top - rows <= top + 1
    assert 0 <= left <= size - left - columns <= left + 1
    assert abs(rows - Fraction(height * size, max(height, width))) < 1
    assert abs(columns - Fraction(width * size, max(height, width))) < 1


def test_frame_refuses_empty_pictures():
    with pytest.raises(ValueError, match="at least one pixel"):
        Frame(0, 4, 320)


@given(masks, st.integers(0, 3))
def test_enlarging_a_mask_is_undone_exactly(mask, more):
    square = fit_mask(mask, max(mask.shape) + more)
    np.testing.assert_array_equal(unfit_mask(square, mask.shape), mask)


@given(sides, sides, st.data())
def test_shrinking_a_mask_is_the_inverse_of_enlarging_it_back(height, width, data):
    size = data.draw(st.integers(1, max(height, width)))
    frame = Frame(height, width, size)
    square = np.zeros((size, size), bool)
    square[frame.window] = data.draw(hnp.arrays(bool, frame.content))
    if frame.content[0] <= height and frame.content[1] <= width:
        np.testing.assert_array_equal(fit_mask(unfit_mask(square, (height, width)), size), square)


@given(sides, sides, sides, st.data())
def test_a_rectangle_covers_the_pixels_whose_middle_it_covers(height, width, size, data):
    y0, y1 = sorted(data.draw(st.tuples(*[st.integers(0, height)] * 2)))
    x0, x1 = sorted(data.draw(st.tuples(*[st.integers(0, width)] * 2)))
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    frame = Frame(height, width, size)
    (rows, columns), (top, left) = frame.content, frame.corner
    inside_y = [y0 <= Fraction(2 * (r - top) + 1, 2) * height / rows < y1 for r in range(size)]
    inside_x = [x0 <= Fraction(2 * (c - left) + 1, 2) * width / columns < x1 for c in range(size)]
    np.testing.assert_array_equal(fit_mask(mask, size), np.outer(inside_y, inside_x))


def test_fit_mask_takes_ten_masks_and_bit_planes_alike():
    ten = np.random.default_rng(0).random((31, 47, 10)) < 0.5
    fitted = fit_mask(ten, 20)
    assert fitted.shape == (20, 20, 10)
    np.testing.assert_array_equal(unpack_masks(fit_mask(pack_masks(ten), 20), 10), fitted)
    np.testing.assert_array_equal(unfit_mask(fitted, (31, 47))[..., 3], unfit_mask(fitted[..., 3], (31, 47)))


def test_image_and_mask_land_on_the_same_pixels():
    y, x = np.mgrid[:240, :400]
    disc = (y - 100) ** 2 + (x - 250) ** 2 < 80**2
    shown = fit_image(np.where(disc, 255, 0).astype(np.uint8), 100)
    # Only the rim may differ, by the antialiasing.
    assert ((shown > 127) != fit_mask(disc, 100)).sum() < 0.2 * 2 * np.pi * 20
    assert not shown[:20].any()
    assert not shown[80:].any()


def test_fit_image_averages_what_it_shrinks():
    stripes = np.tile(np.array([0, 255], np.uint8), (200, 100))
    centre = fit_image(stripes, 20)[5:15, 5:15]
    assert np.abs(centre.astype(int) - 127).max() <= 2


def test_unfit_map_is_linear_where_the_map_is():
    frame = Frame(120, 200, 50)
    square = np.zeros((50, 50), np.float32)
    columns = np.arange(frame.content[1]) + 0.5
    square[frame.window] = columns / frame.content[1]
    full = unfit_map(square, (120, 200))
    expected = (np.arange(200) + 0.5) / 200
    assert full.shape == (120, 200)
    np.testing.assert_allclose(full[:, 2:-2], np.broadcast_to(expected, (120, 200))[:, 2:-2], atol=1e-6)


def test_unfit_map_does_not_let_padding_leak_in():
    square = np.full((64, 64), 1e6, np.float32)
    square[Frame(30, 90, 64).window] = 0.25
    np.testing.assert_array_equal(unfit_map(square, (30, 90)), np.full((30, 90), 0.25, np.float32))


def test_unfit_map_takes_a_map_a_task():
    maps = np.random.default_rng(0).random((16, 16, 10)).astype(np.float32)
    full = unfit_map(maps, (40, 25))
    assert full.shape == (40, 25, 10)
    np.testing.assert_array_equal(full[..., 7], unfit_map(maps[..., 7], (40, 25)))


@given(hnp.arrays(bool, st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([1, 8, 10, 33, 64]))))
def test_bit_planes_round_trip_for_any_number_of_tasks(masks):
    tasks = masks.shape[-1]
    planes = pack_masks(masks)
    assert planes.dtype == np.uint8
    assert planes.shape == (*masks.shape[:-1], -(-tasks // 8))
    np.testing.assert_array_equal(unpack_masks(planes, tasks), masks)


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("grey.png", lambda p: Image.fromarray(GREY).save(p)),
        ("rgb.png", lambda p: Image.fromarray(GREY).convert("RGB").save(p)),
        (
            "clear.png",
            lambda p: Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (8, 6), 9)]).save(p),
        ),
        ("white_is_0.tif", lambda p: _save_white_is_0(p, 255 - GREY)),
    ],
)
def test_eight_bits_are_read_as_stored(tmp_path, name, save):
    save(tmp_path / name)
    image = read_grey(tmp_path / name)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, GREY)


def _save_white_is_0(path, pixels):
    """A TIFF whose photometric interpretation (tag 262) is MinIsWhite, 0 in the place of Pillow's 1."""
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    tag = struct.pack("<HHIH", 262, 3, 1, 1)
    assert data.count(tag) == 1
    path.write_bytes(data.replace(tag, struct.pack("<HHIH", 262, 3, 1, 0)))


def _ramp():
    """Twelve bits, with a hundredth of the pixels below the darkest tissue and a hundredth above the brightest."""
    return np.linspace(300, 3500, 10_000).round().reshape(100, 100).astype(np.uint16)


@pytest.mark.parametrize(
    ("suffix", "stored"),
    [
        ("png", lambda ramp: ramp),
        ("png", lambda ramp: ramp * 16),
        ("png", lambda ramp: ramp + 32768),  # signed values, offset
        ("tif", lambda ramp: ramp),
        ("tif", lambda ramp: ramp.astype(np.int32) - 2000),
        ("pgm", lambda ramp: ramp),
    ],
)
def test_deep_images_keep_their_grey_levels(tmp_path, suffix, stored):
    """By the bits of the largest value in use, an offset or a marker would leave 16 levels."""
    ramp = _ramp()
    low, high = np.percentile(ramp, (1, 99))
    expected = 255 * np.clip((ramp - low) / (high - low), 0, 1)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(stored(ramp)).save(path)
    read = read_radiograph(path)
    assert np.abs(read.grey - expected).max() <= 0.6
    assert read.changes == ("scaled from more than 8 bits, 1st to 99th percentile",)
    marked = stored(ramp)
    marked[:3, :30] = 65535
    Image.fromarray(marked).save(path)
    assert len(np.unique(read_grey(path))) > 250


def test_where_small_values_are_white_they_are_inverted(tmp_path):
    ramp = _ramp()
    Image.fromarray(ramp).save(tmp_path / "black.tif")
    _save_white_is_0(tmp_path / "white.tif", 4095 - ramp)
    black, white = (read_grey(tmp_path / f"{name}.tif").astype(int) for name in ("black", "white"))
    assert np.abs(black - white).max() <= 1


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_a_deep_image_of_one_value_is_black(tmp_path, value):
    Image.fromarray(np.full((5, 4), value, np.uint16)).save(tmp_path / "flat.png")
    assert not read_grey(tmp_path / "flat.png").any()


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_channels_are_refused_and_not_read_as_black(tmp_path, channels):
    """Pillow hands over the upper eight bits, which are nearly black where twelve are in use."""
    path = tmp_path / "deep.png"
    path.write_bytes(_png(np.repeat(_ramp()[..., None], channels, -1)))
    with pytest.raises(InputError, match=r"deep\.png: 16 bits in several channels; convert it to one"):
        read_grey(path)


def _png(pixels):
    """A PNG of 16 bits and 2 to 4 channels, which Pillow does not write."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_viewers(tmp_path, suffix, orientation):
    """Masks are drawn on what viewers show."""
    seen = np.kron(np.array([[0, 80, 160], [240, 40, 120]], np.uint8), np.ones((16, 16), np.uint8))
    turn, mirror = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (1, 1), 6: (1, 0), 7: (3, 1), 8: (3, 0)}[
        orientation
    ]
    stored = np.rot90(np.fliplr(seen) if mirror else seen, turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100)
    read = read_radiograph(path)
    assert read.grey.shape == seen.shape
    assert np.abs(read.grey.astype(int) - seen).max() < 8
    assert read.changes == (("turned upright by its EXIF orientation",) if orientation > 1 else ())


def test_a_deep_image_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_ramp()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.rot90(_ramp(), -1).copy()).save(tmp_path / "upright.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "turned.png"), read_grey(tmp_path / "upright.png"))


def test_read_grey_opens_jpeg_and_one_bit(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_grey(tmp_path / "a.jpg").astype(int) - GREY).max() < 4
    Image.fromarray(GREY > 100).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "b.png"), np.where(GREY > 100, 255, 0))


def test_a_small_file_of_billions_of_pixels_is_refused_before_it_is_unpacked(tmp_path):
    sound = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(sound, "png")
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + sound.getvalue()[24:29]
    bomb = sound.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + sound.getvalue()[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(InputError, match=r"bomb\.png: not a readable image .*3600000000 pixels"):
        read_grey(tmp_path / "bomb.png")


def test_read_grey_names_the_file_that_it_cannot_read(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(
        tmp_path / "whole.jpg"
    )
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(GREY).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.fromarray(GREY)])
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "page.eps")  # Pillow would start Ghostscript
    sound = io.BytesIO()
    Image.fromarray(GREY).save(sound, "png")
    # An empty colour profile after the pixels raises an IndexError in Pillow.
    profile = bytes(4) + b"iCCP" + struct.pack(">I", zlib.crc32(b"iCCP"))
    (tmp_path / "profile.png").write_bytes(sound.getvalue()[:-12] + profile + sound.getvalue()[-12:])
    names = (
        "cut.jpg",
        "text.jpg",
        "empty.png",
        "float.tiff",
        "none.jpg",
        ".",
        "pages.tif",
        "page.eps",
        "profile.png",
    )
    for name in names:
        with pytest.raises(InputError) as error:
            read_grey(tmp_path / name)
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="none of DICOM, PNG, JPEG"):  # not Ghostscript's word on it
        read_grey(tmp_path / "page.eps")


@given(st.binary(max_size=200), st.integers(0, 400))
def test_read_grey_survives_damage(tmp_path_factory, noise, at):
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    Image.fromarray(GREY).save(path)
    data = path.read_bytes()
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    with suppress(InputError):
        assert read_grey(path).ndim == 2


@pytest.mark.real_data
def test_real_radiographs_have_the_size_of_their_masks(shared):
    sample = shared / "chexlocalize_sample"
    masks = read_segmentations(sample / "gt_segmentations_val.json")
    for image_id in masks.ids:
        image = read_grey(sample / "valid" / f"{image_id.replace('_', '/', 2)}.jpg")
        masks.check_size(image_id, image.shape)
        assert fit_image(image, 320).max() > 200
