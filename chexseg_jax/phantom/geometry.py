"""The plane a phantom is drawn in: body coordinates, smooth curves, strokes, clouds.

Body coordinates do not know pixels. One unit is half the inner width of the thorax (about 14 cm); `u` grows to the
image's right (the patient's left on a frontal view), `v` grows downwards, (0, 0) lies mid-chest on the midline.
A `Camera` says where each pixel of a view looks, so one anatomy serves every view and size, and masks are computed
on the pixel grid itself: nothing is ever resampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image, ImageDraw
from scipy import ndimage

Map = Float32[np.ndarray, "H W"]


@dataclass(frozen=True)
class Camera:
    """Where the pixels of one view look."""

    height: int
    width: int
    pixel: float  # body units a pixel
    centre: tuple[float, float] = (0.0, 0.0)  # (u, v) at the middle of the image
    angle: float = 0.0  # rotation of the patient, radians

    def grid(self) -> tuple[Map, Map]:
        """`u` and `v` of every pixel's centre."""
        x = (np.arange(self.width, dtype=np.float32) - (self.width - 1) / 2) * np.float32(self.pixel)
        y = (np.arange(self.height, dtype=np.float32) - (self.height - 1) / 2) * np.float32(self.pixel)
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u = np.float32(self.centre[0]) + cos * x[None, :] + sin * y[:, None]
        v = np.float32(self.centre[1]) - sin * x[None, :] + cos * y[:, None]
        return u, v

    def pixels(self, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Body points (u, v) as image (x, y), pixel centres at whole numbers."""
        u, v = (np.asarray(points, float) - self.centre).T
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y = cos * u - sin * v, sin * u + cos * v
        return np.stack(
            [x / self.pixel + (self.width - 1) / 2, y / self.pixel + (self.height - 1) / 2], axis=-1
        )


@dataclass(frozen=True)
class Stroke:
    """A line through body points: catheter, vessel, wire."""

    points: Float[np.ndarray, "n 2"]
    width: float  # body units
    value: float = 1.0


def curve(points: Sequence[tuple[float, float]], smooth: float = 0.06):
    """A smooth function through (at, value) points, held constant beyond the ends.

    Args:
      points: the control points, `at` increasing.
      smooth: how far corners are rounded, as a share of the curve's span.
    """
    at, value = np.array(points, float).T
    span = at[-1] - at[0]
    table = np.linspace(at[0] - 0.2 * span, at[-1] + 0.2 * span, 512)
    values = ndimage.gaussian_filter1d(np.interp(table, at, value), smooth * 512 / 1.4, mode="nearest")
    return lambda t: np.interp(t, table, values).astype(np.float32)


def spline(points: Sequence[tuple[float, float]], n: int = 40) -> Float[np.ndarray, "n 2"]:
    """A smooth path through body points (Catmull-Rom), as `n` points."""
    p = np.array([points[0], *points, points[-1]], float)
    t = np.linspace(0, len(points) - 1 - 1e-9, n)
    k, s = t.astype(int), (t % 1)[:, None]
    a, b, c, d = p[k], p[k + 1], p[k + 2], p[k + 3]
    return 0.5 * (2 * b + (c - a) * s + (2 * a - 5 * b + 4 * c - d) * s**2 + (3 * b - a - 3 * c + d) * s**3)


def draw(camera: Camera, strokes: Sequence[Stroke], oversample: int = 2) -> Map:
    """Strokes as an antialiased map of their values; where they cross, the later one is seen."""
    size = (camera.width * oversample, camera.height * oversample)
    canvas = Image.new("F", size, 0.0)
    pen = ImageDraw.Draw(canvas)
    points = np.concatenate([stroke.points for stroke in strokes])
    xy = ((camera.pixels(points) + 0.5) * oversample - 0.5).tolist()
    end = 0
    for stroke in strokes:
        start, end = end, end + len(stroke.points)
        width = max(1, round(stroke.width / camera.pixel * oversample))
        pen.line([tuple(p) for p in xy[start:end]], fill=float(stroke.value), width=width, joint="curve")
    return np.array(canvas.reduce(oversample), np.float32)


def clouds(rng: np.random.Generator, u: Map, v: Map, scale: float) -> Map:
    """Smooth noise of mean 0 and standard deviation 1, fixed to the body; blobs of about `scale` units."""
    step = scale / 2.5
    n = int(6.4 / step) + 4
    grid = ndimage.gaussian_filter(rng.standard_normal((n, n), np.float32), 1.2, mode="wrap")
    grid /= grid.std()
    return ndimage.map_coordinates(grid, [(v + 3.2) / step, (u + 3.2) / step], order=1, mode="grid-wrap")


def blur(image: Map, sigma: float) -> Map:
    """Gaussian blur, `sigma` in pixels, the border repeated; wide ones are done on a coarse copy."""
    coarse = int(sigma // 3)
    if coarse < 2:
        return ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3)
    height, width = image.shape
    padded = np.pad(image, ((0, -height % coarse), (0, -width % coarse)), mode="edge")
    small = padded.reshape(padded.shape[0] // coarse, coarse, -1, coarse).mean((1, 3))
    small = ndimage.gaussian_filter(small, sigma / coarse, mode="nearest", truncate=3)
    at = [(np.arange(n) + 0.5) / coarse - 0.5 for n in (height, width)]
    return ndimage.map_coordinates(small, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest").astype(
        np.float32
    )


def ramp(t: Map, soft: float) -> Map:
    """0 for t << 0, 1 for t >> 0, `soft` wide."""
    return 1 / (1 + np.exp(np.clip(-t / np.float32(soft), -30, 30)))


def dome(t: Map) -> Map:
    """The thickness of a round thing: 0 at its border (t = 0), 1 from t = 1 on; steep where it begins."""
    return np.sqrt(np.clip(t * (2 - np.minimum(t, 1)), 0, 1))
