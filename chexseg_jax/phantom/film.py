"""From attenuation to the image: exposure, scatter, blur, noise, display window, collimation, marker."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from chexseg_jax.phantom.geometry import Camera, Map, Stroke, blur, draw


@dataclass(frozen=True)
class Film:
    """The exposure and display of one view."""

    low: float  # attenuation shown black
    high: float  # attenuation shown white
    curve: float  # exponent of the display
    scatter: float  # share of the local mean exposure that arrives as scatter
    blur: float  # of the detector and of motion, body units
    noise: float  # quantum noise where the body is thin
    borders: tuple[float, ...]  # share hidden by the collimator at top, right, bottom, left
    marker: bool  # a lead L at the patient's left

    @classmethod
    def sample(cls, rng: np.random.Generator, *, ap: bool, habitus: float) -> "Film":
        """Sample exposure and display; portable AP films are flatter, noisier and more blurred."""
        high = rng.normal(4.05, 0.15) + 0.45 * habitus
        borders = rng.uniform(0.0, 0.05, 4) * (rng.random(4) < 0.3)
        return cls(
            low=rng.normal(0.85, 0.13) - (0.15 if ap else 0.0),
            high=high,
            curve=float(np.exp(rng.normal(-0.15, 0.15))),
            scatter=rng.uniform(0.10, 0.22) + (0.06 if ap else 0.0),
            blur=rng.uniform(0.004, 0.007) + (0.002 if ap else 0.0),
            noise=rng.uniform(0.006, 0.014),
            borders=tuple(float(b) for b in borders),
            marker=bool(rng.random() < 0.6),
        )


def expose(
    film: Film, camera: Camera, attenuation: Map, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W"]:
    """Expose the radiograph; dense tissue is white.

    Behind thick tissue scatter fogs the image and fewer photons arrive, so quantum noise grows.
    """
    if film.marker:
        attenuation = attenuation + _marker(camera)
    primary = np.exp(-np.clip(attenuation, 0, 12))
    primary = blur(primary, film.blur / camera.pixel)
    arrived = primary + film.scatter * blur(primary, 0.22 / camera.pixel)
    photons = rng.standard_normal(arrived.shape, np.float32)
    arrived = arrived + film.noise * np.sqrt(arrived * 0.03) * photons
    density = -np.log(np.clip(arrived / (1 + film.scatter), 1e-6, None))
    grey = (density - film.low) / (film.high - film.low)
    grey = np.clip(_shoulder(grey), 0, 1) ** film.curve
    return np.round(255 * grey * _collimation(film, camera)).astype(np.uint8)


def _shoulder(t: Map) -> Map:
    """Bend the response softly into white, as film does."""
    knee = 0.75
    return np.where(t < knee, t, knee + (1 - knee) * np.tanh((t - knee) / (1 - knee) * 0.9))


def _collimation(film: Film, camera: Camera) -> Map:
    """Return 1 in the field and almost 0 behind the collimator's blades."""
    height, width = camera.height, camera.width
    top, right, bottom, left = film.borders
    field = np.zeros((height, width), np.float32)
    rows = slice(round(top * height), height - round(bottom * height))
    field[rows, round(left * width) : width - round(right * width)] = 1
    return np.float32(0.02) + np.float32(0.98) * field


def _marker(camera: Camera) -> Map:
    """Draw the radiographer's lead L in the corner beside the patient's left shoulder."""
    x, y = camera.width * 0.92, camera.height * 0.07
    size = min(camera.width, camera.height) * 0.03
    corner = np.array([(x, y - size), (x, y + size), (x + 1.2 * size, y + size)])
    centred = (corner - ((camera.width - 1) / 2, (camera.height - 1) / 2)) * camera.pixel
    cos, sin = np.cos(camera.angle), np.sin(camera.angle)
    u, v = centred.T
    points = np.stack([cos * u + sin * v, cos * v - sin * u], -1)
    return 3.0 * draw(camera, [Stroke(points + camera.centre, 0.02)])
