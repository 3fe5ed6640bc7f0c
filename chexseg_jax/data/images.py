"""Radiographs and masks as arrays: reading, the square frame of training, masks as bit-planes.

The frame is the published one (CheXseg's `segmentation_dataset.py`): the longer side becomes `size`, the shorter
keeps the aspect (rounded down), and the picture is centred on black; an odd pixel of padding goes below or to the
right.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Shaped, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from chexseg_jax.data.dicom import is_dicom, read_dicom
from chexseg_jax.data.windows import stretch, to_grey
from chexseg_jax.errors import InputError, first_line

#: Pillow's readers that are used; some others would start a program (EPS) or fetch a file.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
#: TIFF's tags.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339


@dataclass(frozen=True)
class Frame:
    """The place of a picture of height x width pixels in a square of `size` x `size`.

    Pixel centres are at halves: that of the picture's row y lies `(y + 1/2) * rows / height` below `top`, where
    (rows, columns) is the `content` and (top, left) the `corner`.
    """

    height: int
    width: int
    size: int

    def __post_init__(self):
        if min(self.height, self.width, self.size) < 1:
            raise ValueError(f"sides must be at least one pixel, got {self}")

    @cached_property
    def content(self) -> tuple[int, int]:
        """(rows, columns) of the picture in the square, at least one each."""
        longer = max(self.height, self.width)
        return max(1, self.height * self.size // longer), max(1, self.width * self.size // longer)

    @cached_property
    def corner(self) -> tuple[int, int]:
        """(top, left): the picture's first row and column in the square."""
        rows, columns = self.content
        return (self.size - rows) // 2, (self.size - columns) // 2

    @property
    def window(self) -> tuple[slice, slice]:
        """The picture's rows and columns in the square, as an index."""
        (top, left), (rows, columns) = self.corner, self.content
        return slice(top, top + rows), slice(left, left + columns)


class Radiograph(NamedTuple):
    """An image file's pixels as grey values in [0, 255], how they differ from the stored ones, and the file's hash.

    `spacing` is in mm per pixel (row, column), None where unknown.
    """

    grey: UInt8[np.ndarray, "H W"]
    changes: tuple[str, ...]
    sha256: str
    spacing: tuple[float, float] | None = None


def read_grey(path: str | Path) -> UInt8[np.ndarray, "H W"]:
    """The grey values of a radiograph, see `read_radiograph`."""
    return read_radiograph(path).grey


def read_radiograph(path: str | Path) -> Radiograph:
    """Read a radiograph as grey values in [0, 255], upright as viewers show it; transparency is ignored.

    Eight bits are taken as stored, colour as its luma. What has more bits, by the file's own statement, is scaled
    linearly from its 1st percentile (0) to its 99th (255): most "16-bit" radiographs hold ten or twelve bits, some
    of them offset or inverted, and a burned-in marker may be brighter than all of them. DICOM files: see `read_dicom`.

    Raises:
      InputError: naming a file that is missing, truncated or not an image; one with several pages, with floating-point
        pixels, or with more than eight bits in several channels, of which Pillow reads only the upper eight.
    """
    try:
        data = Path(path).read_bytes()
        if is_dicom(data, path):
            grey, changes, spacing = read_dicom(data, path)
            return Radiograph(grey, changes, hashlib.sha256(data).hexdigest(), spacing)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_pixels(image, data, path)
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
            # Small values are white. Where they have up to eight bits, Pillow inverts them itself.
            inverted = _tags(image).get(_PHOTOMETRIC) == 0
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            deep = image.mode.startswith("I")
            pixels = np.array(image if deep else image.convert("L"))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; check the path and its root folder") from None
    # Pillow's readers raise whatever a damaged file leads them to: IndexError, struct.error, TypeError and more.
    except Exception as error:
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        reason = f"{kind}{first_line(error)}"
        if isinstance(error, UnidentifiedImageError):  # names an address in memory
            reason = f"none of DICOM, {', '.join(_FORMATS)}"
        raise InputError(
            f"{path}: not a readable image ({reason}); download it again or leave it out"
        ) from None
    changes = ("turned upright by its EXIF orientation",) * turned
    changes += ("scaled from more than 8 bits, 1st to 99th percentile",) * deep
    grey = to_grey(stretch(pixels), inverted=inverted) if deep else pixels
    return Radiograph(grey, changes, hashlib.sha256(data).hexdigest())


def _check_pixels(image: Image.Image, data: bytes, path: str | Path) -> None:
    """Refuse pixels that Pillow would hand over as other values than the file's, without a word."""
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1 and image.format != "MPO":  # a camera's JPEG with a thumbnail
        raise InputError(f"{path}: holds {pictures} pictures; save the radiograph alone")
    if image.mode == "F":
        raise InputError(f"{path}: floating-point pixels; convert them to 8 or 16 bits")
    bits = {"PNG": data[24], "TIFF": max(_tags(image).get(_BITS, (1,)))}.get(image.format or "", 8)
    unknown = image.format in ("JPEG2000", "PPM")  # Pillow does not tell their depth
    if len(image.getbands()) > 1 and (bits > 8 or unknown):
        depth = "an unknown number of" if unknown else str(bits)
        raise InputError(
            f"{path}: {depth} bits in several channels; convert it to one 16-bit grey channel, or to 8 bits"
        )
    if bits == 8 and _tags(image).get(_SAMPLE_FORMAT, (1,))[0] == 2:
        raise InputError(f"{path}: signed 8-bit pixels; convert them to unsigned ones")


def _tags(image: Image.Image) -> Mapping[int, Any]:
    return getattr(image, "tag_v2", {})


def fit_image(image: UInt8[np.ndarray, "H W"], size: int) -> UInt8[np.ndarray, "S S"]:
    """The picture in its `Frame`, resampled by bilinear interpolation with antialiasing, on black."""
    frame = Frame(image.shape[0], image.shape[1], size)
    rows, columns = frame.content
    picture = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
    square = np.zeros((size, size), np.uint8)
    square[frame.window] = np.asarray(picture)
    return square


def fit_mask(mask: Shaped[np.ndarray, "H W *K"], size: int) -> Shaped[np.ndarray, "S S *K"]:
    """Masks (bool, or bit-planes) in their picture's `Frame`, by nearest neighbour.

    Nearest neighbour keeps the expected area of structures thinner than a pixel (a majority would drop every
    catheter) and has an exact inverse: `fit_mask(unfit_mask(m, shape), size)` is m's content where the frame shrinks
    the picture, and `unfit_mask(fit_mask(m, size), shape)` is m where it does not.
    """
    frame = Frame(mask.shape[0], mask.shape[1], size)
    rows, columns = (_nearest(*sides) for sides in zip(frame.content, mask.shape[:2], strict=True))
    square = np.zeros((size, size, *mask.shape[2:]), mask.dtype)
    square[frame.window] = mask[rows[:, None], columns]
    return square


def unfit_mask(mask: Shaped[np.ndarray, "S S *K"], shape: tuple[int, int]) -> Shaped[np.ndarray, "H W *K"]:
    """Undo `fit_mask`: masks at the picture's (height, width), by nearest neighbour, without the padding."""
    frame = Frame(*shape, mask.shape[0])
    rows, columns = (_nearest(*sides) for sides in zip(shape, frame.content, strict=True))
    # Columns first: they are gathered at the square's height, then whole rows are copied.
    return mask[frame.window][:, columns][rows]


def unfit_map(values: Float[np.ndarray, "S S *K"], shape: tuple[int, int]) -> Float32[np.ndarray, "H W *K"]:
    """Maps in the square (probabilities, saliency) at the picture's (height, width), bilinearly.

    Half-pixel centres, edges repeated; values in the padding do not leak in.
    """
    return resize_map(values[Frame(*shape, values.shape[0]).window], shape)


def resize_map(values: Float[np.ndarray, "h w *K"], shape: tuple[int, int]) -> Float32[np.ndarray, "H W *K"]:
    """Bilinear resampling to (height, width) with half-pixel centres; antialiased where it shrinks.

    Where it enlarges, this is `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    """
    planes = np.moveaxis(np.asarray(values, np.float32), (0, 1), (-2, -1))
    resized = np.empty((*planes.shape[:-2], *shape), np.float32)
    for k in np.ndindex(planes.shape[:-2]):
        image = Image.fromarray(np.ascontiguousarray(planes[k]))
        resized[k] = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.moveaxis(resized, (-2, -1), (0, 1))


def pack_masks(masks: Bool[np.ndarray, "*B K"]) -> UInt8[np.ndarray, "*B P"]:
    """K masks as bit-planes in P = ceil(K / 8) bytes: bit k of the little-endian bytes is task k.

    Masks are stored and sent to the device in this form: ten take two bytes a pixel instead of ten.
    """
    return np.packbits(masks, axis=-1, bitorder="little")


def unpack_masks(planes: UInt8[np.ndarray, "*B P"], tasks: int) -> Bool[np.ndarray, "*B K"]:
    """The inverse of `pack_masks` for K = `tasks`."""
    return np.unpackbits(planes, axis=-1, count=tasks, bitorder="little").view(bool)


def _nearest(length: int, source: int) -> Int64[np.ndarray, " length"]:
    """For each of `length` pixels, the source pixel under its centre, in exact integer arithmetic."""
    return (2 * np.arange(length) + 1) * source // (2 * length)
