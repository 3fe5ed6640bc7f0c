"""DICOM files that are refused, and what is told of them: never anything of a patient."""

import logging
import sys
import warnings

import numpy as np
import pytest
from dicom_files import EIGHT, PLANTED, TWELVE, content, dataset
from pydicom.uid import MPEG2MPML, RLELossless

from chexseg_jax.data.dicom import read_dicom
from chexseg_jax.data.images import read_radiograph
from chexseg_jax.errors import InputError


def unlike(**changes):
    ds = dataset(TWELVE, bits=12)
    for name, value in changes.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    return content(ds, enforce_file_format=False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (unlike(PixelData=None), "without a picture"),
        (unlike(NumberOfFrames=3), "holds 3 pictures"),
        (unlike(Rows=None), "without Rows"),
        (unlike(PhotometricInterpretation=None), "without PhotometricInterpretation"),
        (unlike(PhotometricInterpretation="HSV"), "neither grey"),
        (unlike(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"), "segmentation, not a radiograph"),
        (unlike(HighBit=15, PixelData=(TWELVE << 4).tobytes()), "HighBit is not BitsStored - 1"),
        (unlike(Rows=60_000, Columns=60_000), "claims 3600000000 pixels"),
        (unlike(VOILUTFunction="GAMMA", WindowCenter=9, WindowWidth=9), "VOI LUT function"),
        (unlike(PixelData=bytes(9)), r"not a readable DICOM file \(ValueError\)"),
        (unlike(PixelData=None, FloatPixelData=bytes(9 * 4)), "floating-point"),
        (content(dataset(np.zeros((4, 4, 3), np.uint16))), "more than 8 bits in several channels"),
        (b"no DICOM at all" * 30, "not a DICOM file, in spite of its name"),
        (b"", "not a"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_file(tmp_path, data, reason):
    path = tmp_path / "wrong.dcm"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason) as error:
        read_radiograph(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_compression_that_nothing_reads_is_named(tmp_path):
    ds = dataset(TWELVE, bits=12)
    ds.compress(RLELossless)
    for syntax, reason in ((MPEG2MPML, "MPEG2 Main Profile"), ("1.2.3.4", "an unknown transfer syntax")):
        ds.file_meta.TransferSyntaxUID = syntax
        with pytest.raises(InputError, match=f"a.dcm: {reason}.*: no decoder reads it"):
            read_dicom(content(ds), "a.dcm")


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    (tmp_path / "a.dcm").write_bytes(content(dataset(EIGHT)))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        InputError, match=r"a\.dcm: DICOM files need an extra: pip install 'chexseg-jax\[dicom\]'"
    ):
        read_radiograph(tmp_path / "a.dcm")


#: Elements that are read, and values of their own length that stand for a patient's.
QUOTED = {
    "NumberOfFrames": "1234567890",
    "PhotometricInterpretation": "MONOCHROME2",
    "WindowCenter": "1042.5",
    "WindowWidth": "2000",
    "VOILUTFunction": "LINEAR",
    "PatientOrientation": "L\\F",
    "PixelSpacing": "0.125\\0.125",
    "RescaleSlope": "1.25",
    "RescaleIntercept": "-7.5",
}


@pytest.mark.parametrize("name", QUOTED)
def test_a_damaged_element_is_not_quoted(name, caplog, recwarn):
    """Pydicom quotes it in its errors and warnings."""
    logging.getLogger().setLevel(logging.DEBUG)
    warnings.simplefilter("always")
    ds = dataset(
        TWELVE, bits=12, **{n: v for n, v in QUOTED.items() if n in (name, "WindowCenter", "WindowWidth")}
    )
    stored = QUOTED[name].encode()
    sound = content(ds)
    assert sound.count(stored) == 1
    try:
        told = [repr(read_dicom(sound.replace(stored, b"Zyxwvutsrqponm"[: len(stored)]), "a.dcm")[1:])]
    except InputError as error:
        told = [str(error)]
    told += [record.getMessage() for record in caplog.records] + [str(w.message) for w in recwarn]
    assert not [line for line in told if "Zyx" in line]


def test_nothing_of_the_patient_is_told(caplog, recwarn):
    """However the header is damaged: in an error, a warning, a log or a change."""
    logging.getLogger().setLevel(logging.DEBUG)
    warnings.simplefilter("always")
    rng = np.random.default_rng(0)
    sound, told, refused = content(dataset(EIGHT, PatientOrientation=["L", "F"])), [], 0
    for _ in range(200):
        damaged = bytearray(sound)
        for at in rng.integers(132, len(sound) - EIGHT.size, 3):
            damaged[at] = rng.integers(256)
        try:
            told.append(repr(read_dicom(bytes(damaged), "a.dcm")[1:]))
        except InputError as error:
            told.append(str(error))
            refused += 1
    told += [record.getMessage() for record in caplog.records] + [str(w.message) for w in recwarn]
    assert 20 < refused < 180
    pieces = [piece for value in PLANTED.values() for piece in (value, value[:6], value[-6:])]
    assert not [(piece, line) for piece in pieces for line in told if piece in line]
