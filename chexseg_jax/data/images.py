"""Radiographs and masks as arrays: reading, the square frame of training, masks as bit-planes.

The frame is the published one (CheXseg's `segmentation_dataset.py`): the longer side becomes `size`, the shorter
keeps the aspect (rounded down), and the picture is centred on black; an odd pixel of padding goes below or to the
right.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, Shaped, UInt8
from PIL import Image

from chexseg_jax.errors import InputError


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


def read_grey(path: str | Path) -> UInt8[np.ndarray, "H W"]:
    """Read a radiograph as grey values in [0, 255], as stored: orientation tags and transparency are ignored.

    Colour becomes luma. Images of more than eight bits keep the eight highest bits in use (most "16-bit"
    radiographs hold ten or twelve bits, and would be black if divided by 256).

    Raises:
      InputError: naming a file that is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F":
                raise InputError(f"{path}: floating-point image; convert it to 8 or 16 bits")
            if not image.mode.startswith("I"):
                return np.array(image.convert("L"))
            deep = np.asarray(image).astype(np.int64)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; check the path and its root folder") from None
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: not a readable image ({error}); download it again or leave it out"
        ) from None
    if deep.min() < 0:
        raise InputError(f"{path}: negative grey values; convert it to 8 or 16 bits unsigned")
    return (deep >> max(0, int(deep.max()).bit_length() - 8)).astype(np.uint8)


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
