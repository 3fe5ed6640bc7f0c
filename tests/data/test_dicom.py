import csv
import io
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import EIGHT, TWELVE, content, dataset, lookup_table
from ml_collections import ConfigDict
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from chexseg_jax.artifact import Store
from chexseg_jax.data.dicom import read_dicom
from chexseg_jax.data.images import read_grey, read_radiograph
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.sources import open_sources
from chexseg_jax.stages.prepare import prepare

#: Twelve bits, signed.
SIGNED = TWELVE.astype(np.int16) - 2048
#: From pydicom-data, which is too large for the extra `test`.
REAL = [Path(place, "data_store", "data") for place in sys.path if Path(place, "data_store", "data").is_dir()]


def read(ds, **options):
    return read_dicom(content(ds, **options), "a.dcm")


def grey(ds, **options):
    return read(ds, **options)[0]


def test_eight_bits_without_a_window_are_read_as_stored(tmp_path):
    path = tmp_path / "named_by_nothing"
    path.write_bytes(content(dataset(EIGHT, RescaleSlope=1, RescaleIntercept=0)))
    image = read_radiograph(path)
    np.testing.assert_array_equal(image.grey, EIGHT)
    assert image.changes == ()
    assert len(image.sha256) == 64


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", ""])
@pytest.mark.parametrize(("pixels", "centre", "width"), [(TWELVE, 1500, 1000), (SIGNED, -300, 2500.5)])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 2, "RescaleIntercept": -1000}])
def test_rescaling_and_window_are_those_of_pydicom(pixels, centre, width, function, rescale):
    ds = dataset(pixels, bits=12, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, **rescale)
    if not function:
        del ds.VOILUTFunction
    values = apply_windowing(apply_modality_lut(pixels, ds), ds)
    ends = np.array([-2048, 2047] if ds.PixelRepresentation else [0, 4095])
    low, high = apply_modality_lut(ends, ds)
    found, changes, _ = read(ds)
    np.testing.assert_array_equal(found, np.rint(255 * (values - low) / (high - low)))
    assert changes == ("shown through its window",)
    assert len(np.unique(found)) > 50


def test_a_window_of_width_one_is_a_threshold():
    found = grey(dataset(TWELVE, bits=12, WindowCenter=2000, WindowWidth=1))
    np.testing.assert_array_equal(found, np.where(TWELVE > 1999.5, 255, 0))


def test_of_several_windows_the_first_counts_and_this_is_said():
    several = read(dataset(TWELVE, bits=12, WindowCenter=[2000, 9], WindowWidth=[600, 9]))
    single = read(dataset(TWELVE, bits=12, WindowCenter=2000, WindowWidth=600))
    np.testing.assert_array_equal(several[0], single[0])
    assert several[1] == ("shown through its first window",)


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 5, "WindowWidth": 0},
        {"WindowCenter": 5, "WindowWidth": 0.5},
        {"WindowCenter": 5, "WindowWidth": -9},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 2000},
    ],
)
@pytest.mark.parametrize("pixels", [TWELVE, SIGNED])
def test_without_a_window_percentiles_scale(pixels, window):
    low, high = np.percentile(pixels, (1, 99))
    found, changes, _ = read(dataset(pixels, bits=12, **window))
    expected = 255 * np.clip((pixels - low) / (high - low), 0, 1)
    assert np.abs(found - expected).max() <= 0.51
    assert changes == ("scaled from the 1st percentile to the 99th, as it has no window",)


@pytest.mark.parametrize("rescale", [{"RescaleSlope": 0.001, "RescaleIntercept": 7}, {}])
def test_percentiles_do_not_depend_on_the_slope(rescale):
    plain = grey(dataset(TWELVE, bits=12)).astype(int)
    assert np.abs(grey(dataset(TWELVE, bits=12, **rescale)) - plain).max() <= 1


def test_monochrome1_is_inverted_after_the_window():
    window = {"WindowCenter": 900, "WindowWidth": 1500}  # not symmetric: before it, the result would differ
    plain = grey(dataset(TWELVE, bits=12, **window))
    found, changes, _ = read(dataset(TWELVE, bits=12, PhotometricInterpretation="MONOCHROME1", **window))
    assert np.abs(found.astype(int) - (255 - plain)).max() <= 1  # halves are rounded to even
    assert changes[1] == "inverted, since its least values are white (MONOCHROME1)"
    np.testing.assert_array_equal(grey(dataset(EIGHT, PhotometricInterpretation="MONOCHROME1")), 255 - EIGHT)


@pytest.mark.parametrize(("bits", "stated"), [(8, 8), (12, 12), (12, 16), (16, 16)])
def test_a_voi_lookup_table_counts_the_bits_in_use(bits, stated):
    """Of tables with eight bits for twelve-bit values, pydicom 3.0 wraps the index."""
    entries = np.round(np.linspace(0, 1, 1000) ** 2 * (2**bits - 1))
    table = lookup_table(entries, 500, stated)
    found, changes, _ = read(dataset(TWELVE, bits=12, VOILUTSequence=[table], WindowCenter=9, WindowWidth=9))
    level = entries[np.clip(TWELVE.astype(int) - 500, 0, 999)] / (2**bits - 1)
    np.testing.assert_array_equal(found, np.rint(255 * level))
    assert changes == ("shown through its VOI lookup table",)


@pytest.mark.parametrize("first", [-2048, 0])
def test_a_modality_lookup_table_comes_before_the_window(first):
    pixels = SIGNED if first else TWELVE
    entries = np.round(np.sqrt(np.linspace(0, 1, 4096)) * 60_000)
    window = {"WindowCenter": 30_000, "WindowWidth": 20_000}
    ds = dataset(pixels, bits=12, ModalityLUTSequence=[lookup_table(entries, first, 16)], **window)
    values = entries[pixels.astype(int) - first]
    np.testing.assert_array_equal(grey(ds), np.rint(255 * np.clip((values - 29_999.5) / 19_999 + 0.5, 0, 1)))


@pytest.mark.parametrize("limit", [None, 60_000])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_spoil_the_percentiles(limit, photometric):
    padded = np.pad(TWELVE, ((0, 0), (30, 9)), constant_values=65_535)
    if limit:
        padded[:, :5] = limit
    more = {"PixelPaddingRangeLimit": limit} if limit else {}
    plain = grey(dataset(TWELVE, bits=12, PhotometricInterpretation=photometric))
    ds = dataset(padded, PixelPaddingValue=65_535, PhotometricInterpretation=photometric, **more)
    found, changes, _ = read(ds)
    np.testing.assert_array_equal(found[:, 30:-9], plain)
    assert not found[:, :30].any()
    assert not found[:, -9:].any()
    assert changes[-1] == "padded; its padding is black"


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.14, 0.15]}, (0.14, 0.15)),
        ({"PixelSpacing": ["0.000", "0.000"]}, None),
        ({"PixelSpacing": [-1, 0.2]}, None),
        ({"PixelSpacing": []}, None),
        ({"PixelSpacing": 0.2}, None),
        ({"ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
        ({"ImagerPixelSpacing": [0.2, 0.3], "EstimatedRadiographicMagnificationFactor": 2}, (0.1, 0.15)),
        ({"ImagerPixelSpacing": [0.2, 0.3], "EstimatedRadiographicMagnificationFactor": 0}, (0.2, 0.3)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
        # Equal to the detector's: it is not calibrated. Different: it is, and the magnification is in it.
        (
            {
                "PixelSpacing": [0.2, 0.2],
                "ImagerPixelSpacing": [0.2, 0.2],
                "EstimatedRadiographicMagnificationFactor": 2,
            },
            (0.1, 0.1),
        ),
        (
            {
                "PixelSpacing": [0.19, 0.19],
                "ImagerPixelSpacing": [0.2, 0.2],
                "EstimatedRadiographicMagnificationFactor": 2,
            },
            (0.19, 0.19),
        ),
    ],
)
def test_spacing(elements, spacing):
    assert read(dataset(EIGHT, **elements))[2] == (spacing and pytest.approx(spacing))


def test_spacing_that_is_no_number_is_unknown():
    ds = dataset(EIGHT, PixelSpacing=["0.125", "0.125"])
    data = content(ds).replace(b"0.125", b"0.1x5")
    assert read_dicom(data, "a.dcm")[2] is None


@pytest.mark.parametrize(
    ("orientation", "usual"),
    [
        (["L", "F"], True),
        (["A", "F"], True),
        (["P", "FR"], True),
        ("", True),
        (["R", "F"], False),
        (["L", "H"], False),
        (["F", "L"], False),
    ],
)
def test_an_unusual_orientation_is_said_and_the_pixels_stay(orientation, usual):
    found, changes, _ = read(dataset(EIGHT, PatientOrientation=orientation))
    np.testing.assert_array_equal(found, EIGHT)
    assert changes == (
        () if usual else ("mirrored or turned, by its PatientOrientation; it is kept as it is stored",)
    )


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_encodings_hold_equal_pixels(syntax):
    np.testing.assert_array_equal(
        grey(dataset(TWELVE, bits=12, syntax=syntax)), grey(dataset(TWELVE, bits=12))
    )


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.name)
@pytest.mark.parametrize("pixels", [EIGHT, TWELVE])
def test_lossless_compression_changes_nothing(syntax, pixels):
    ds = dataset(pixels, bits=8 if pixels is EIGHT else 12)
    plain = grey(ds)
    ds.compress(syntax)
    np.testing.assert_array_equal(grey(ds), plain)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_prefix_and_transfer_syntax_is_read_by_its_name(tmp_path, implicit):
    ds = dataset(TWELVE, bits=12)
    file = io.BytesIO()
    bare = pydicom.Dataset()
    bare.update(ds)
    pydicom.dcmwrite(file, bare, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    (tmp_path / "raw.dcm").write_bytes(file.getvalue())
    assert file.getvalue()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_grey(tmp_path / "raw.dcm"), grey(ds))


def test_pydicoms_files_of_one_picture_in_many_encodings():
    kinds = ("", "_RLE", "_bigendian", "_implicit", "_jp2klossless", "_jpeg_ls_lossless", "_padded")
    first, *others = (read_grey(get_testdata_file(f"MR_small{kind}.dcm", download=False)) for kind in kinds)
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize(
    "name",
    ["SC_rgb_jpeg_gdcm", "SC_rgb_dcmtk_+eb+cy+s2", "examples_palette", "SC_rgb_rle", "examples_jpeg2k"],
)
def test_colour_becomes_its_luma(name):
    """JPEG lossless, JPEG in YBR, a palette, RLE and JPEG 2000."""
    file = get_testdata_file(f"{name}.dcm", download=False)
    ds = pydicom.dcmread(file)
    colours = pixel_array(ds)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(colours, ds)
        colours = colours // (257 if colours.max() > 255 else 1)
    luma = colours @ np.array([0.299, 0.587, 0.114])
    image = read_radiograph(file)
    assert np.abs(image.grey - luma).max() < 1.6
    assert image.changes == ("turned from colour to grey",)


def test_a_jpeg_of_twelve_bits_is_read():
    file = get_testdata_file("JPGExtended.dcm", download=False)
    pixels = pixel_array(file)
    low, high = np.percentile(pixels, (1, 99))
    assert np.abs(read_grey(file) - 255 * np.clip((pixels - low) / (high - low), 0, 1)).max() <= 0.51


def test_a_data_set_of_dicom_files_is_prepared_as_one_of_pngs(download, tmp_path):
    """`Path` ends in .dcm; nothing else differs."""

    def prepared(name):
        sources = open_sources(Store(tmp_path / name), ConfigDict({"root": str(download)}))
        config = ConfigDict({"size": 32, "views": "both", "max_missing": 0.0})
        store = Store(tmp_path / name)
        splits = (sources.train, sources.valid)
        return [
            Prepared.load(store.make("prepare", prepare, collective=True, config=config, split=split))
            for split in splits
        ]

    before = prepared("before")
    for file in download.rglob("*.jpg"):
        file.with_suffix(".dcm").write_bytes(content(dataset(np.asarray(Image.open(file).convert("L")))))
        file.unlink()
    for table in download.rglob("*.csv"):
        with table.open(newline="") as stream:
            rows = [[cell.replace(".jpg", ".dcm") for cell in row] for row in csv.reader(stream)]
        with table.open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    for old, new in zip(before, prepared("after"), strict=True):
        assert old.ids == new.ids
        np.testing.assert_array_equal(np.asarray(old.images), np.asarray(new.images))


@pytest.mark.skipif(not REAL, reason="pydicom-data is not installed")
@pytest.mark.parametrize(("plain", "compressed"), [("RG1_UNCR", "RG1_J2KR"), ("RG1_UNCI", "RG1_J2KI")])
def test_a_real_chest_radiograph_in_its_encodings(plain, compressed):
    image, other = (read_radiograph(REAL[0] / f"{name}.dcm") for name in (plain, compressed))
    np.testing.assert_array_equal(image.grey, other.grey)
    assert image.grey.shape == (1955, 1841)
    assert image.spacing is None  # stated, as 0
    spine, lung = image.grey[600:1300, 850:950], image.grey[500:900, 1150:1350]
    assert spine.mean() > lung.mean() + 30  # MONOCHROME1: stored, it is the other way round


@pytest.mark.skipif(not REAL, reason="pydicom-data is not installed")
def test_a_real_mirrored_radiograph_is_said_to_be_so():
    """Its R is mirrored, and so is its PatientOrientation."""
    assert any(change.startswith("mirrored") for change in read_radiograph(REAL[0] / "RG3_UNCI.dcm").changes)


@pytest.mark.real_data
def test_real_radiographs_keep_their_pixels_in_dicom(shared, tmp_path):
    files = [
        *sorted((shared / "chexlocalize_sample").rglob("*.jpg")),
        *sorted((shared / "nih_cxr").rglob("*.jpg")),
    ]
    assert len(files) > 600
    for file in files[:: max(1, len(files) // 40)]:
        pixels = read_grey(file)
        (tmp_path / "a.dcm").write_bytes(content(dataset(pixels)))
        np.testing.assert_array_equal(read_grey(tmp_path / "a.dcm"), pixels)
