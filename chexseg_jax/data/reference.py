"""The look of a training set at 8x8 pixels, and whether an image is like it, blank, inverted or rotated.

A `Reference` is a Gaussian of thumbnails, each with its mean subtracted and divided by its standard deviation, so
that brightness and contrast do not count. Its covariance is shrunk as in Ledoit and Wolf, "A well-conditioned
estimator for large-dimensional covariance matrices" (2004), so that few images are enough.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from chexseg_jax.data.prepared import Prepared
from chexseg_jax.errors import DamagedError, first_line

_SIDE = 8
#: Fewer images are no reference; more add nothing.
_FEWEST, _MOST = 16, 1000
#: Standard deviation of a thumbnail, in grey levels, below which an image is blank. That of the flattest of 689 NIH
#: radiographs is 24.
_FLAT = 6.0
#: Share of the training images that lie within the limit.
_WITHIN = 0.99
_FILE = "reference.npz"
#: Mean of the standardised thumbnails of a phantom's frontal training images, on a grey scale.
_UPRIGHT = """
 65  81  97 114 114  96  81  67
 98 122 123 140 141 124 122  97
108 127 119 146 148 121 129 107
 98 121 125 157 157 126 122  96
 91 120 133 167 171 139 122  90
 90 128 149 176 180 154 128  89
 92 147 178 186 185 172 142  90
 92 149 175 180 179 174 147  90
"""


class Checks(NamedTuple):
    """Scores of an image, in (0, inf); above 1, the image is probably what the name says.

    Attributes:
      blank: 6 grey levels over the standard deviation of the thumbnail.
      inverted: distance from the reference over that of the negative.
      rotated: distance over the least of those after 90, 180 and 270 degrees.
      unlike: distance over the reference's limit: another view, another source, or no chest radiograph.
      verdict: "ok", "blank", "inverted", "rotated", "rotated and inverted" or "unlike".
    """

    blank: float
    inverted: float
    rotated: float
    unlike: float
    verdict: str


@dataclass(frozen=True)
class Reference:
    """A Gaussian of thumbnails.

    Attributes:
      mean: of the thumbnails.
      precision: inverse of their shrunk covariance.
      limit: distance that 99 % of the training images stay below, each measured from others.
    """

    mean: Float[np.ndarray, " D"]
    precision: Float[np.ndarray, "D D"]
    limit: float

    def distance(self, thumbnails: Float[np.ndarray, "*N D"]) -> Float[np.ndarray, "*N"]:
        """Squared Mahalanobis distances, divided by D."""
        away = thumbnails - self.mean
        return np.einsum("...i,ij,...j->...", away, self.precision, away) / len(self.mean)

    def check(self, image: UInt8[np.ndarray, "H W"]) -> Checks:
        """Check a radiograph: is it blank, inverted, rotated, or unlike the training images?

        The verdict calls an image inverted or rotated if undoing it brings the image nearest, and within the limit.
        Whether it is mirrored cannot be told well enough.
        """
        square = _shrink(image)
        flat = float(_FLAT / max(square.std(), 1e-6))
        turned = [np.rot90(square, quarter) for quarter in range(4)]
        distances = self.distance(_standardise([*turned, *(-x for x in turned)]))
        best = int(distances.argmin())
        if flat > 1:
            verdict = "blank"
        elif distances[best] > self.limit:
            verdict = "unlike"
        elif best == 0:
            verdict = "ok"
        else:
            verdict = " and ".join(["rotated"] * (best % 4 > 0) + ["inverted"] * (best >= 4))
        upright = float(distances[0])
        inverted, rotated = upright / float(distances[4]), upright / float(distances[1:4].min())
        return Checks(flat, inverted, rotated, upright / self.limit, verdict)

    def save(self, directory: Path) -> None:
        """Write `reference.npz`, 33 kB."""
        np.savez(directory / _FILE, **asdict(self))

    @classmethod
    def load(cls, directory: Path) -> "Reference":
        """Read the reference of a saved model, `UPRIGHT` for one without.

        Raises:
          DamagedError: for a truncated or corrupt file.
        """
        path = directory / _FILE
        if not path.exists():
            return UPRIGHT
        try:
            with np.load(path) as arrays:
                return cls(arrays["mean"], arrays["precision"], float(arrays["limit"]))
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DamagedError(
                f"{path}: truncated or corrupt ({first_line(error)}); copy the folder again"
            ) from None


def fit_reference(sets: Sequence[Prepared]) -> Reference:
    """The reference of up to 1000 images, taken evenly from all sets; `UPRIGHT` for fewer than 16."""
    squares = []
    count = sum(map(len, sets))
    for images in sets:
        share = min(len(images), -(-len(images) * _MOST // max(count, 1)))
        some = images.take(np.linspace(0, len(images) - 1, share).astype(int))
        for image, (top, left, rows, columns) in zip(some.images, some.windows, strict=True):
            squares.append(_shrink(np.asarray(image)[top : top + rows, left : left + columns]))
    if len(squares) < _FEWEST:
        return UPRIGHT
    thumbnails = _standardise(squares)
    folds = np.arange(len(thumbnails)) % 5
    apart = [_gaussian(thumbnails[folds != k]).distance(thumbnails[folds == k]) for k in range(5)]
    limit = max(1.0, float(np.quantile(np.concatenate(apart), _WITHIN)))  # equal images have distance 0
    return replace(_gaussian(thumbnails), limit=limit)


def shrunk_covariance(values: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "D D"]:
    """Ledoit and Wolf's estimate: (1 - a) S + a m I, with S the sample's covariance and m its mean variance."""
    count, size = values.shape
    values = values - values.mean(0)
    sample = values.T @ values / count
    target = np.trace(sample) / size * np.eye(size)
    spread = ((values**2).sum(1) ** 2).sum() / count**2 - (sample**2).sum() / count
    share = min(1.0, spread / max(((sample - target) ** 2).sum(), 1e-12))
    return (1 - share) * sample + share * target


def _gaussian(thumbnails: Float[np.ndarray, "N D"]) -> Reference:
    # The floor keeps equal images, such as a test's, from a singular matrix.
    covariance = shrunk_covariance(thumbnails) + 1e-4 * np.eye(thumbnails.shape[1])
    return Reference(thumbnails.mean(0), np.linalg.inv(covariance), limit=np.inf)


def _shrink(image: UInt8[np.ndarray, "H W"]) -> Float[np.ndarray, "8 8"]:
    """Means of 8x8 parts of the picture, whatever its aspect."""
    return np.asarray(Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX), float)


def _standardise(squares: Sequence[Float[np.ndarray, "8 8"]]) -> Float[np.ndarray, "N 64"]:
    rows = np.reshape(squares, (len(squares), -1))
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(rows.std(1, keepdims=True), 1e-3)


#: For models whose training images are unknown: any upright chest radiograph. Its limit, a correlation of 1/4 with the
#: mean, leaves out one in a hundred NIH radiographs. Its verdict on photographs is mostly wrong: see docs/trust.md.
UPRIGHT = Reference(
    _standardise([np.array(_UPRIGHT.split(), float).reshape(_SIDE, _SIDE)])[0], np.eye(_SIDE**2), limit=1.5
)
