"""The plane in which a phantom is drawn: body coordinates, smooth curves, strokes, noise.

Body coordinates do not depend on the pixels. One unit is half the inner width of the thorax (about 14 cm); `u` grows
to the image's right (the patient's left on a frontal view), `v` grows downwards, and (0, 0) lies mid-chest on the
midline. A `Camera` maps the pixels of a view to body coordinates. One anatomy therefore serves every view and size,
and masks are computed on the pixel grid itself, without resampling.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from scipy import ndimage

Map = Float[np.ndarray, "H W"]
Mask = Bool[np.ndarray, "H W"]
Curve = Callable[[Any], np.ndarray]  # keeps the shape of its argument
Points = Float[np.ndarray, "n 2"]
Point = tuple[float, float] | Float[np.ndarray, " 2"]


@dataclass(frozen=True)
class Camera:
    """Maps the pixels of one view to body coordinates."""

    height: int
    width: int
    pixel: float  # body units per pixel
    centre: tuple[float, float] = (0.0, 0.0)  # (u, v) at the middle of the image
    angle: float = 0.0  # rotation of the patient, radians

    def grid(self) -> tuple[Map, Map]:
        """Compute `u` and `v` at the centre of every pixel."""
        x = (np.arange(self.width, dtype=np.float32) - (self.width - 1) / 2) * np.float32(self.pixel)
        y = (np.arange(self.height, dtype=np.float32) - (self.height - 1) / 2) * np.float32(self.pixel)
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u = np.float32(self.centre[0]) + cos * x[None, :] + sin * y[:, None]
        v = np.float32(self.centre[1]) - sin * x[None, :] + cos * y[:, None]
        return u, v

    def pixels(self, points: Points) -> Points:
        """Convert body points (u, v) to image points (x, y); pixel centres are whole numbers."""
        u, v = (np.asarray(points, float) - self.centre).T
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        x, y = cos * u - sin * v, sin * u + cos * v
        middle = ((self.width - 1) / 2, (self.height - 1) / 2)
        return np.stack([x / self.pixel + middle[0], y / self.pixel + middle[1]], axis=-1)


@dataclass(frozen=True)
class Stroke:
    """A line through body points, such as a catheter, a vessel or a wire."""

    points: Points
    width: float  # body units
    value: float = 1.0


def curve(points: Sequence[tuple[float, float]], smooth: float = 0.06) -> Curve:
    """Return a smooth function through (position, value) points, constant beyond the ends.

    Args:
      points: the control points, positions increasing.
      smooth: how far corners are rounded, as a share of the curve's span.
    """
    position, value = np.array(points, float).T
    span = position[-1] - position[0]
    table = np.linspace(position[0] - 0.2 * span, position[-1] + 0.2 * span, 512)
    values = ndimage.gaussian_filter1d(np.interp(table, position, value), smooth * 512 / 1.4, mode="nearest")
    return lambda t: np.interp(t, table, values).astype(np.float32)


def spline(points: Points | Sequence[Point]) -> Float[np.ndarray, "40 2"]:
    """Interpolate body points by a smooth path (Catmull-Rom)."""
    p = np.array([points[0], *points, points[-1]], float)
    t = np.linspace(0, len(points) - 1 - 1e-9, 40)
    k, s = t.astype(int), (t % 1)[:, None]
    a, b, c, d = p[k], p[k + 1], p[k + 2], p[k + 3]
    return 0.5 * (2 * b + (c - a) * s + (2 * a - 5 * b + 4 * c - d) * s**2 + (3 * b - a - 3 * c + d) * s**3)


def draw(camera: Camera, strokes: Sequence[Stroke], oversample: int = 2) -> Map:
    """Draw strokes as an antialiased map of their values; where they cross, the later one wins."""
    canvas = Image.new("F", (camera.width * oversample, camera.height * oversample), 0.0)
    pen = ImageDraw.Draw(canvas)
    points = np.concatenate([stroke.points for stroke in strokes])  # one conversion for hundreds of strokes
    xy = ((camera.pixels(points) + 0.5) * oversample - 0.5).tolist()
    end = 0
    for stroke in strokes:
        start, end = end, end + len(stroke.points)
        width = max(1, round(stroke.width / camera.pixel * oversample))
        pen.line([tuple(p) for p in xy[start:end]], fill=float(stroke.value), width=width, joint="curve")
    return np.array(canvas.reduce(oversample), np.float32)


def clouds(rng: np.random.Generator, u: Map, v: Map, scale: float) -> Map:
    """Sample smooth noise of mean 0 and standard deviation 1, fixed to the body; blobs span about `scale` units."""
    step = scale / 2.5
    n = int(6.4 / step) + 4
    grid = ndimage.gaussian_filter(rng.standard_normal((n, n), np.float32), 1.2, mode="wrap")
    grid /= grid.std()
    return ndimage.map_coordinates(grid, [(v + 3.2) / step, (u + 3.2) / step], order=1, mode="grid-wrap")


def blur(image: Map, sigma: float) -> Map:
    """Apply a Gaussian blur, `sigma` in pixels, border repeated; a wide blur is computed on a coarse copy."""
    coarse = int(sigma // 3)
    if coarse < 2:
        return ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3)
    height, width = image.shape
    padded = np.pad(image, ((0, -height % coarse), (0, -width % coarse)), mode="edge")
    small = padded.reshape(padded.shape[0] // coarse, coarse, -1, coarse).mean((1, 3))
    small = ndimage.gaussian_filter(small, sigma / coarse, mode="nearest", truncate=3)
    at = [(np.arange(n) + 0.5) / coarse - 0.5 for n in (height, width)]
    fine = ndimage.map_coordinates(small, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    return fine.astype(np.float32)


def ramp(t: Map, soft: float) -> Map:
    """Rise from 0 (t << 0) to 1 (t >> 0) over a width of `soft`."""
    return 1 / (1 + np.exp(np.clip(-t / np.float32(soft), -30, 30)))


def dome(t: Map) -> Map:
    """Thickness of a round body: 0 at its border (t = 0) with a steep rise, 1 for t >= 1."""
    return np.sqrt(np.clip(t * (2 - np.minimum(t, 1)), 0, 1))
