"""Radiographs in DICOM files, by pydicom and its decoders (the extra `dicom`).

The stored values go through DICOM's chain of grey values (PS3.3, C.11): the modality's lookup table or rescaling, the
VOI lookup table or window, and the inversion of MONOCHROME1. Pixels stay where they are stored, so masks align with
the file. Only the elements of `_ELEMENTS` are read: none of them identifies a patient.
"""

import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped, UInt8
from PIL import Image

from chexseg_jax.data.windows import look_up, stretch, to_grey, window, within
from chexseg_jax.errors import InputError, naming

SUFFIXES = (".dcm", ".dicom")
EXTRA = "pip install 'chexseg-jax[dicom]'"

_REQUIRED = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel")
_ELEMENTS = (
    *_REQUIRED,
    *("SOPClassUID", "PhotometricInterpretation", "HighBit", "PlanarConfiguration", "NumberOfFrames"),
    *(
        "PixelData",
        "FloatPixelData",
        "DoubleFloatPixelData",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
    ),
    *(
        "ModalityLUTSequence",
        "RescaleSlope",
        "RescaleIntercept",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
    ),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PatientOrientation"),
    *("PixelSpacing", "ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor"),
    *(
        f"{segmented}{colour}PaletteColorLookupTable{what}"
        for colour in ("Red", "Green", "Blue")
        for segmented, what in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
    ),
)
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def is_dicom(data: bytes, path: str | Path) -> bool:
    """Whether a file is DICOM, by its prefix or, for files written without one, by its name."""
    return data[128:132] == b"DICM" or Path(path).suffix.lower() in SUFFIXES


def library() -> ModuleType:
    """Return pydicom, silent: its warnings quote the values of elements.

    Raises:
      InputError: if the extra `dicom` is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise InputError(f"DICOM files need an extra: {EXTRA}") from None
    for name in ("pydicom", "openjpeg"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydicom")
    return pydicom


def read_dicom(
    data: bytes, path: str | Path
) -> tuple[UInt8[np.ndarray, "H W"], tuple[str, ...], tuple[float, float] | None]:
    """Read a radiograph as grey values in [0, 255], as a viewer shows it at first; pixels stay where they are stored.

    Grey values are those of the VOI lookup table or of the window, the first where there are several. Without one, up
    to eight bits are taken as stored, and more are scaled from the 1st percentile to the 99th. MONOCHROME1, whose least
    values are white, is inverted last. Padding is black and no part of the percentiles. Colour becomes its luma.

    Args:
      data: of the file.
      path: of the file, for messages.

    Returns:
      The grey values; how they differ from the stored ones; and the spacing (row, column) in mm a pixel, None if it is
      unknown: PixelSpacing where it is calibrated, otherwise the detector's by the magnification, where that is given.

    Raises:
      InputError: naming a file that is damaged, or holds no picture, several, a segmentation, floating-point pixels,
        colour of more than eight bits, or a compression that no decoder here reads. No message holds a value of the
        header.
    """
    with _reading(path):
        dataset = _open(data)
        grey, changes = _grey(dataset)
        return grey, (*changes, *_orientation(dataset)), _spacing(dataset)


def read_size(path: Path) -> tuple[int, int]:
    """The (height, width) in pixels that a file's header gives.

    Raises:
      InputError: naming a file without them.
    """
    with _reading(path):
        dataset = library().dcmread(
            path, force=True, stop_before_pixels=True, specific_tags=["Rows", "Columns"]
        )
        height, width = (int(dataset.get(name) or 0) for name in ("Rows", "Columns"))
        if min(height, width) < 1:
            raise InputError("a DICOM file without a picture; leave it out")
        return height, width


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Name the file in each error. pydicom raises whatever a damaged file leads it to, and quotes the file's values."""
    try:
        with naming(Path(path)):
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: not a readable DICOM file ({type(error).__name__}); export it again or leave it out"
        ) from None


def _open(data: bytes) -> Any:
    """The dataset of a file that holds one picture in a known encoding."""
    dataset = library().dcmread(io.BytesIO(data), force=True, specific_tags=list(_ELEMENTS))
    if data[128:132] != b"DICM" and "SOPClassUID" not in dataset:
        raise InputError("not a DICOM file, in spite of its name; leave it out, or give it its own suffix")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise InputError("floating-point pixels; convert them to 8 or 16 bits")
    if "PixelData" not in dataset:
        raise InputError("a DICOM file without a picture; leave it out")
    if dataset.get("SOPClassUID") == _SEGMENTATION:
        raise InputError("a DICOM segmentation, not a radiograph; leave it out")
    if lacking := [name for name in (*_REQUIRED, "PhotometricInterpretation") if dataset.get(name) is None]:
        raise InputError(f"a DICOM file without {', '.join(lacking)}; export it again or leave it out")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise InputError(f"holds {frames} pictures; save the radiograph alone")
    if dataset.Rows * dataset.Columns > 2 * Image.MAX_IMAGE_PIXELS:  # as Pillow refuses it
        raise InputError(f"claims {dataset.Rows * dataset.Columns} pixels; export it again or leave it out")
    if dataset.get("HighBit") not in (None, dataset.BitsStored - 1):  # pydicom keeps the lower ones
        raise InputError("HighBit is not BitsStored - 1: its values are shifted; export it again")
    _set_transfer_syntax(dataset)
    return dataset


def _set_transfer_syntax(dataset: Any) -> None:
    """Complete a header that does not name the encoding by the one that it was read in."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if dataset.file_meta.get("TransferSyntaxUID"):
        return
    if dataset["PixelData"].is_undefined_length:
        raise InputError("compressed pixels, but no transfer syntax; export it again")
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _decode(dataset: Any) -> Integer[np.ndarray, "H W"] | Integer[np.ndarray, "H W 3"]:
    """The stored values, decompressed; colour as RGB."""
    from pydicom.pixels import get_decoder, pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    name = syntax.name if syntax.is_transfer_syntax else "an unknown transfer syntax"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InputError(f"{name}: no decoder reads it; export it uncompressed") from None
    if not decoder.is_available:
        raise InputError(f"{name}: its decoder is missing; {EXTRA}")
    # Other decoders come first where they are installed: gdcm and pylibjpeg-rle end the process at some damaged files.
    sound = (plugin for plugin in ("pydicom", "pylibjpeg") if plugin in decoder.available_plugins)
    return pixel_array(dataset, decoding_plugin=next(sound, ""))


def _grey(dataset: Any) -> tuple[UInt8[np.ndarray, "H W"], tuple[str, ...]]:
    photometric = str(dataset.PhotometricInterpretation).strip().upper()
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return _luma(dataset, photometric), ("turned from colour to grey",)
    if dataset.SamplesPerPixel != 1:
        raise InputError("several samples a pixel, but no colour; export it again or leave it out")
    stored = _decode(dataset)
    padding = _numbers(dataset, "PixelPaddingValue")
    padded = within(stored, padding + _numbers(dataset, "PixelPaddingRangeLimit")) if padding else None
    values = _modality(stored, dataset)
    bits, changes = dataset.BitsStored, []
    levels, how = _voi(values, dataset)
    if how:
        changes.append(how)
    elif bits > 8 or values is not stored or dataset.PixelRepresentation:
        levels = stretch(values, None if padded is None else ~padded)
        changes.append("scaled from the 1st percentile to the 99th, as it has no window")
    else:
        levels = stored / np.float32(2**bits - 1)
    inverted = photometric == "MONOCHROME1"
    grey = to_grey(levels, inverted=inverted)
    if inverted:
        changes.append("inverted, since its least values are white (MONOCHROME1)")
    if padded is not None and padded.any():
        grey[padded] = 0
        changes.append("padded; its padding is black")
    return grey, tuple(changes)


def _luma(dataset: Any, photometric: str) -> UInt8[np.ndarray, "H W"]:
    if photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(_decode(dataset), dataset)
        # Some palettes claim sixteen bits and fill eight.
        colours = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)[..., :3]
    elif photometric == "RGB" or photometric.startswith("YBR_"):
        if dataset.BitsAllocated != 8:
            raise InputError("more than 8 bits in several channels; convert it to one grey channel")
        colours = _decode(dataset)
    else:
        raise InputError(
            "neither grey (MONOCHROME1, MONOCHROME2) nor colour (PALETTE COLOR, RGB, YBR); convert it"
        )
    return np.array(Image.fromarray(colours).convert("L"))


def _modality(stored: Integer[np.ndarray, "H W"], dataset: Any) -> Num[np.ndarray, "H W"]:
    """The values after the modality's lookup table or rescaling; `stored` itself if there is neither."""
    if dataset.get("ModalityLUTSequence"):
        return look_up(stored, *_table(dataset.ModalityLUTSequence[0], dataset))
    rescale = _numbers(dataset, "RescaleSlope") + _numbers(dataset, "RescaleIntercept")
    if len(rescale) != 2 or not rescale[0] or rescale == (1, 0):
        return stored
    return stored * rescale[0] + rescale[1]


def _voi(values: Num[np.ndarray, "H W"], dataset: Any) -> tuple[Float[np.ndarray, "H W"] | None, str]:
    """Levels in [0, 1] through the VOI lookup table or window, and a change's name; (None, "") if there is neither."""
    if tables := dataset.get("VOILUTSequence"):
        table, first = _table(tables[0], dataset)
        # Some tables claim sixteen bits and fill twelve: count those in use.
        full = 2 ** int(table.max()).bit_length() - 1
        how = f"shown through its {'first ' * (len(tables) > 1)}VOI lookup table"
        return look_up(values, table / np.float64(max(full, 1)), first), how
    centres, widths = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    if not centres or not widths or widths[0] <= 0 or (function == "LINEAR" and widths[0] < 1):
        return None, ""
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise InputError(
            "a VOI LUT function other than LINEAR, LINEAR_EXACT and SIGMOID; export it with a window"
        )
    several = max(len(centres), len(widths)) > 1
    return window(values, centres[0], widths[0], function), f"shown through its {'first ' * several}window"


def _table(item: Any, dataset: Any) -> tuple[Shaped[np.ndarray, " N"], int]:
    """A lookup table's entries, and the value that the first of them stands for."""
    entries, first, _ = map(int, item.LUTDescriptor)
    entries, content = entries or 2**16, item.LUTData
    if isinstance(content, bytes):  # by its VR, OW
        width = 1 if len(content) < 2 * entries else 2
        order = "<" if dataset.original_encoding[1] else ">"
        content = np.frombuffer(content, f"{order}u{width}", count=entries)
    return np.asarray(content)[:entries], first


def _orientation(dataset: Any) -> tuple[str, ...]:
    """A change's name if rows do not run to the patient's left, front or back, or columns not to the feet."""
    directions = dataset.get("PatientOrientation") or ()
    if isinstance(directions, str) or len(directions) != 2 or not all(directions):
        return ()
    row, column = map(str, directions)
    usual = row[0] in "LAP" and column[0] == "F"
    return () if usual else ("mirrored or turned, by its PatientOrientation; it is kept as it is stored",)


def _spacing(dataset: Any) -> tuple[float, float] | None:
    """Millimetres (row, column) from pixel to pixel: in the patient where that is known, else at the detector."""
    pixel, imager = (_positive(_numbers(dataset, name)) for name in ("PixelSpacing", "ImagerPixelSpacing"))
    if pixel and imager and pixel != imager:
        return pixel  # calibrated (PS3.3, 10.7.1.3)
    detector = pixel or imager
    magnification = _numbers(dataset, "EstimatedRadiographicMagnificationFactor") if imager else ()
    if not detector or not magnification or magnification[0] <= 0:
        return detector
    return detector[0] / magnification[0], detector[1] / magnification[0]


def _positive(spacing: tuple[float, ...]) -> tuple[float, float] | None:
    """A spacing (row, column) in mm; None if it is not two positive numbers."""
    return (spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None


def _numbers(dataset: Any, name: str) -> tuple[float, ...]:
    """The numbers of an element; none if it is absent, empty, damaged or not finite."""
    try:
        value = dataset.get(name)
        values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        numbers = tuple(map(float, values))
    except (TypeError, ValueError, OverflowError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()
