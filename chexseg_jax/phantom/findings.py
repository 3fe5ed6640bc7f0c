"""The pathologies, drawn where they occur and as they look.

Fluid replaces air. A finding in the lung is a `fill`, the share of the lung's air that it replaces (0..1), so it adds
fill x depth of lung to the attenuation, whatever else lies in the beam. **A mask holds the pixels where the finding's
own fill (or attenuation) exceeds `EDGE` of its peak, within the visible lung**: the contour that a reader draws around
a soft shadow. The mask of Cardiomegaly is the whole heart and that of Enlarged Cardiomediastinum the whole silhouette,
as in CheXlocalize; that of Pneumothorax is the space without lung markings up to and including the pleural line.

Every finding has its own random stream and ignores the others, so switching one off changes no other.
"""

from dataclasses import dataclass

import numpy as np

from chexseg_jax.phantom.anatomy import WATER, Scene
from chexseg_jax.phantom.geometry import Map, Mask, Stroke, clouds, draw, ramp

#: Share of a finding's peak above which a pixel belongs to its mask.
EDGE = 0.35


@dataclass(frozen=True)
class Finding:
    """The mask of one finding and its effect on a scene."""

    mask: Mask
    fill: Map | float = 0.0  # share of the air replaced by fluid
    collapsed: Map | float = 0.0  # share of the lung that is free air
    shadow: Map | float = 0.0  # further attenuation


def consolidation(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Lobar pneumonia: a dense patch with cloudy borders and air bronchograms, sometimes cut off by a fissure."""
    fill = np.zeros_like(scene.u)
    side = _sample_side(rng)
    for _ in range(1 + (rng.random() < 0.3)):
        lower = rng.random() < 0.6
        centre = (rng.uniform(0.45, 0.68), rng.uniform(0.62, 0.82) if lower else rng.uniform(0.26, 0.42))
        radii = (rng.uniform(0.34, 0.50), rng.uniform(0.20, 0.30))
        patch = _patch(rng, scene, side, centre, radii, rough=0.55, soft=0.12)
        if not lower and rng.random() < 0.6:
            patch = patch * ramp(centre[1] + 0.5 * radii[1] - scene.y, 0.008)  # the minor fissure
        fill = np.maximum(fill, patch)
        side = -side
    mask = _mask(fill, scene)
    branches = []
    for side in (-1, 1):
        hu, hv = scene.hila[side]
        for angle in rng.uniform(-1.2, 1.2, 9):
            reach = np.linspace(0.1, 0.75, 12)
            across = reach * np.cos(angle) * (rng.choice([-1, 1]) if scene.lateral else side)
            down = reach * np.sin(angle) + rng.normal(0, 0.15) * reach**2
            branches.append(Stroke(np.stack([hu + across, hv + down], -1), 0.016))
    bronchograms = 1 - 0.32 * draw(scene.camera, branches)
    return Finding(mask, fill=_filled(fill * bronchograms, 0.72, strength))


def airspace_opacity(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """An opacity without a named cause: a wide, faint haze (ground glass) in one or both lungs."""
    fill = np.zeros_like(scene.u)
    for side in _sample_sides(rng, both=0.35):
        centre = (rng.uniform(0.5, 0.7), rng.uniform(0.35, 0.75))
        radii = (rng.uniform(0.3, 0.42), rng.uniform(0.2, 0.3))
        fill = np.maximum(fill, _patch(rng, scene, side, centre, radii, rough=0.25, soft=0.16))
    return Finding(_mask(fill, scene), fill=_filled(fill, 0.40, strength))


def edema(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Cardiogenic edema: granular haze around both hila (bat's wings), with Kerley B lines at the base."""
    size = rng.uniform(0.85, 1.2)
    wings = np.zeros_like(scene.u)
    for side in (-1, 1):
        hu, hv = scene.hila[side]
        radius = np.hypot(scene.u - hu - 0.10 * side * (not scene.lateral), (scene.v - hv - 0.08) / 1.45)
        wing = ramp(0.44 * size * (1 + 0.12 * clouds(rng, scene.u, scene.v, 0.3)) - radius, 0.07)
        wings = np.maximum(wings, wing * scene.on_side(side))
    base = ramp(1 - np.hypot((scene.x - 0.86) / 0.2, (scene.y - 0.80) / 0.24), 0.10)
    lines = np.abs((scene.y * 26) % 1 - 0.5) * 2
    fill = wings * (0.48 + 0.07 * clouds(rng, scene.u, scene.v, 0.07)) * (0.9 + 0.25 * size - 0.25)
    kerley = base * (0.24 + 0.10 * ramp(lines - 0.7, 0.08))
    mask = (np.maximum(wings, base) > EDGE) & scene.field
    return Finding(mask, fill=_filled(np.maximum(fill, kerley), 1.0, strength))


def atelectasis(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Loss of volume at the base: plates (thick, nearly level bands) or a collapsed lower lobe (a sharp wedge)."""
    sides = _sample_sides(rng, both=0.45)
    if rng.random() < 0.35:
        fill, peak = _plates(rng, scene, sides), 0.66
    else:
        fill, peak = _collapsed_lobe(rng, scene, sides[0]), 0.72
    return Finding(_mask(fill, scene), fill=_filled(fill, peak, strength))


def _plates(rng: np.random.Generator, scene: Scene, sides: tuple[int, ...]) -> Map:
    plates = []
    for side in sides:
        middle = rng.uniform(0.78, 0.92)
        for k in range(int(rng.integers(1, 4))):
            left, right = rng.uniform(0.25, 0.5), rng.uniform(0.7, 0.92)
            level, tilt = middle + 0.10 * (k - 0.5), rng.uniform(-0.10, 0.12)
            plates.append((side, left, right, level, tilt, rng.uniform(0.020, 0.034)))
    fill = np.zeros_like(scene.u)
    for side, left, right, level, tilt, half in plates:
        along = (scene.x - left) / (right - left)
        centre = scene.patient.apex + level * (scene.patient.base - scene.patient.apex)
        height = np.abs(scene.v - centre - tilt * (along - 0.5) + 0.02 * clouds(rng, scene.u, scene.v, 0.3))
        band = ramp(half - height, 0.008) * ramp(scene.x - left, 0.02) * ramp(right - scene.x, 0.02)
        fill = np.maximum(fill, band * scene.on_side(side))
    return fill


def _collapsed_lobe(rng: np.random.Generator, scene: Scene, side: int) -> Map:
    """The sail behind the heart: a wedge on the diaphragm, its straight border running up to the hilum."""
    slope, top = rng.uniform(0.9, 1.3), rng.uniform(0.40, 0.55)
    below = ramp(scene.y - top, 0.02)
    if scene.lateral:
        wedge = ramp(scene.x - 1 + 0.7 * (scene.y - top), 0.012) * below
    else:
        wedge = ramp(0.22 + slope * (scene.y - top) - scene.x, 0.012) * below * scene.on_side(side)
    return wedge * (1 + 0.05 * clouds(rng, scene.u, scene.v, 0.2))


def pleural_effusion(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Free fluid: it blunts the costophrenic angle, hides the diaphragm and climbs the wall in a meniscus."""
    fill = np.zeros_like(scene.u)
    for side in _sample_sides(rng, both=0.45):
        amount = rng.uniform(0.24, 0.40) if rng.random() < 0.4 else rng.uniform(0.40, 0.80)
        rise = rng.uniform(0.14, 0.3)
        level = scene.floor[side] - amount - rise * np.clip(scene.x, 0, 1) ** 4
        pool = ramp(scene.v - level, 0.018) * ramp(scene.x - 0.55 + 0.9 * (amount - 0.2), 0.03)
        fill = np.maximum(fill, pool * scene.on_side(side))
    return Finding(_mask(fill, scene), fill=np.clip(min(strength, 1) * fill, 0, 1))


def pneumothorax(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Air between lung and wall: an apical and lateral crescent without markings, bordered by a thin pleural line."""
    side = _sample_side(rng)
    depth, fade = rng.uniform(0.28, 0.55), rng.uniform(0.7, 1.15)
    thickness = depth * np.clip(1.25 - np.clip(scene.y, 0, 1) / fade, 0, None)
    lung = scene.on_side(side) & (scene.air > 0) & (scene.y < 1)
    depth_of_air = np.clip(scene.air * 4, 0, 1)
    space = ramp(thickness - scene.wall, 0.006) * lung
    line = np.exp(-(((scene.wall - thickness) / 0.012) ** 2)) * lung * (thickness > 0.02) * depth_of_air
    mask = (scene.wall < thickness + 0.012) & lung & (thickness > 0.02) & scene.field
    # Above conspicuity 1 the free air cannot become emptier; instead the beam meets less of the wall.
    shadow = 0.30 * strength * line - 0.10 * strength * space * depth_of_air
    return Finding(mask, collapsed=space * min(1.0, strength), shadow=shadow * mask)


def lung_lesion(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Nodules and masses: one to three round, slightly lobulated shadows, 6-15 % of the image's width."""
    shadow = np.zeros_like(scene.u)
    for k in range(int(rng.choice([1, 2, 2, 3]))):
        side, down = _sample_side(rng), rng.uniform(0.18, 0.80)
        out = rng.uniform(0.70 if side > 0 and down > 0.5 else 0.52, 0.84)  # beside even a large heart
        distance = np.abs(scene.x - out) + np.abs(scene.y - down) + 9 * ~scene.on_side(side)
        row, column = np.unravel_index(distance.argmin(), distance.shape)
        radius = rng.uniform(0.11, 0.17) * (1 if k == 0 else 0.7)
        du, dv = scene.u - scene.u[row, column], scene.v - scene.v[row, column]
        lobes = sum(0.035 * np.cos(n * np.arctan2(dv, du) + rng.uniform(0, 6.3)) for n in (2, 3, 5))
        inside = 1 - (np.hypot(du, dv) / (radius * (1 + lobes))) ** 2
        shadow = np.maximum(shadow, np.sqrt(np.clip(inside, 0, None)) * (0.85 + 2.5 * radius))
    mask = (shadow > EDGE * shadow.max()) & (scene.air > 0)
    return Finding(mask, shadow=0.36 * WATER * strength * shadow * np.clip(scene.air * 6, 0, 1))


#: The findings of the lung and the pleura, by task.
CHEST_FINDINGS = {
    "Airspace Opacity": airspace_opacity,
    "Atelectasis": atelectasis,
    "Consolidation": consolidation,
    "Edema": edema,
    "Lung Lesion": lung_lesion,
    "Pleural Effusion": pleural_effusion,
    "Pneumothorax": pneumothorax,
}


def _sample_side(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1]))


def _sample_sides(rng: np.random.Generator, *, both: float) -> tuple[int, ...]:
    """Sample both sides with probability `both`, otherwise one."""
    return (-1, 1) if rng.random() < both else (_sample_side(rng),)


def _patch(
    rng: np.random.Generator,
    scene: Scene,
    side: int,
    centre: tuple[float, float],
    radii: tuple[float, float],
    *,
    rough: float,
    soft: float,
) -> Map:
    """Draw a cloudy ellipse in lung coordinates, 1 inside, on one side."""
    radius = np.hypot((scene.x - centre[0]) / radii[0], (scene.y - centre[1]) / radii[1])
    coarse, fine = (clouds(rng, scene.u, scene.v, scale) for scale in (0.28, 0.09))
    return ramp(1 - (radius + rough * (0.4 * coarse + 0.15 * fine)), soft) * scene.on_side(side)


def _filled(fill: Map, peak: float, strength: float) -> Map:
    return np.clip(peak * strength * fill, 0, 0.95)


def _mask(fill: Map, scene: Scene) -> Mask:
    visible = fill * scene.field
    return visible > EDGE * max(float(visible.max()), 1e-6)
