"""The pathologies, drawn where and as they occur.

Fluid replaces air: a finding in the lung is a `fill`, the share of the lung's air it takes (0..1), so its added
attenuation is fill x depth of lung, whatever else lies in the beam. **A mask is where the finding's own fill (or
attenuation) exceeds `EDGE` of its peak, within the visible lung**: the contour a reader draws around a soft shadow.
Cardiomegaly's mask is the whole heart and Enlarged Cardiomediastinum's the whole silhouette, as in CheXlocalize;
Pneumothorax's is the airless-marking space up to and with the pleural line.

Every finding has its own random stream and knows nothing of the others: switching one off changes no other.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from chexseg_jax.phantom.anatomy import WATER, Scene
from chexseg_jax.phantom.geometry import Map, Stroke, clouds, draw, ramp

#: Share of a finding's peak from which on a pixel belongs to its mask.
EDGE = 0.35


@dataclass(frozen=True)
class Finding:
    """What one finding adds to a scene, and its mask."""

    mask: Bool[np.ndarray, "H W"]
    fill: Map | float = 0.0  # share of the air replaced by fluid
    collapsed: Map | float = 0.0  # share of the lung that is free air
    shadow: Map | float = 0.0  # further attenuation


def consolidation(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Lobar pneumonia: a dense patch with cloudy borders, some cut off by a fissure, with air bronchograms."""
    fill = np.zeros_like(scene.u)
    side = int(rng.choice([-1, 1]))
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
    fill = fill * (1 - 0.32 * draw(scene.camera, branches))
    return Finding(mask, fill=np.clip(0.72 * strength * fill, 0, 0.95))


def airspace_opacity(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """An opacity that the report gives no cause for: a wide, faint haze (ground glass) in one or both lungs."""
    fill = np.zeros_like(scene.u)
    for side in (-1, 1) if rng.random() < 0.35 else (int(rng.choice([-1, 1])),):
        centre = (rng.uniform(0.5, 0.7), rng.uniform(0.35, 0.75))
        radii = (rng.uniform(0.3, 0.42), rng.uniform(0.2, 0.3))
        fill = np.maximum(fill, _patch(rng, scene, side, centre, radii, rough=0.25, soft=0.16))
    return Finding(_mask(fill, scene), fill=np.clip(0.40 * strength * fill, 0, 0.95))


def edema(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Cardiogenic edema: both lungs hazy around the hila (bat's wings), granular, with Kerley B lines at the base."""
    size = rng.uniform(0.85, 1.2)
    wings = np.zeros_like(scene.u)
    for side in (-1, 1):
        hu, hv = scene.hila[side]
        radius = np.hypot(scene.u - hu - 0.10 * side * (not scene.lateral), (scene.v - hv - 0.08) / 1.45)
        wing = ramp(0.44 * size * (1 + 0.12 * clouds(rng, scene.u, scene.v, 0.3)) - radius, 0.07)
        wings = np.maximum(wings, wing * scene.on(side))
    base = ramp(1 - np.hypot((scene.x - 0.86) / 0.2, (scene.y - 0.80) / 0.24), 0.10)
    lines = np.abs((scene.y * 26) % 1 - 0.5) * 2
    fill = wings * (0.48 + 0.07 * clouds(rng, scene.u, scene.v, 0.07)) * (0.9 + 0.25 * size - 0.25)
    kerley = base * (0.24 + 0.10 * ramp(lines - 0.7, 0.08))
    mask = (np.maximum(wings, base) > EDGE) & scene.field
    return Finding(mask, fill=np.clip(strength * np.maximum(fill, kerley), 0, 0.95))


def atelectasis(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Lost volume at the base: plates (thick, nearly level bands) or a collapsed lower lobe (a sharp wedge).

    The wedge's straight border runs from the hilum to the diaphragm, its base lies on it: the sail behind the heart.
    """
    sides = (-1, 1) if rng.random() < 0.45 else (int(rng.choice([-1, 1])),)
    fill = np.zeros_like(scene.u)
    if rng.random() < 0.35:
        plates = []
        for side in sides:
            middle = rng.uniform(0.78, 0.92)
            for k in range(int(rng.integers(1, 4))):
                left, right = rng.uniform(0.25, 0.5), rng.uniform(0.7, 0.92)
                level, tilt = middle + 0.10 * (k - 0.5), rng.uniform(-0.10, 0.12)
                plates.append((side, left, right, level, tilt, rng.uniform(0.020, 0.034)))
        for side, left, right, level, tilt, half in plates:
            along = (scene.x - left) / (right - left)
            at = scene.places["apex"] + level * (scene.places["base"] - scene.places["apex"])
            height = np.abs(scene.v - at - tilt * (along - 0.5) + 0.02 * clouds(rng, scene.u, scene.v, 0.3))
            band = ramp(half - height, 0.008) * ramp(scene.x - left, 0.02) * ramp(right - scene.x, 0.02)
            fill = np.maximum(fill, band * scene.on(side))
        peak = 0.66
    else:
        side = sides[0]
        slope = rng.uniform(0.9, 1.3)
        top = rng.uniform(0.40, 0.55)
        reach = 0.22 + slope * (scene.y - top)
        wedge = ramp(reach - scene.x, 0.012) * ramp(scene.y - top, 0.02) * scene.on(side)
        if scene.lateral:
            wedge = ramp(scene.x - 1 + 0.7 * (scene.y - top), 0.012) * ramp(scene.y - top, 0.02)
        fill = wedge * (1 + 0.05 * clouds(rng, scene.u, scene.v, 0.2))
        peak = 0.72
    return Finding(_mask(fill, scene), fill=np.clip(peak * strength * fill, 0, 0.95))


def pleural_effusion(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Free fluid: blunts the costophrenic angle, hides the diaphragm, climbs the wall in a meniscus."""
    sides = (-1, 1) if rng.random() < 0.45 else (int(rng.choice([-1, 1])),)
    fill = np.zeros_like(scene.u)
    for side in sides:
        amount = rng.uniform(0.24, 0.40) if rng.random() < 0.4 else rng.uniform(0.40, 0.80)
        rise = rng.uniform(0.14, 0.3)
        level = scene.floor[side] - amount - rise * np.clip(scene.x, 0, 1) ** 4
        pool = ramp(scene.v - level, 0.018) * ramp(scene.x - 0.55 + 0.9 * (amount - 0.2), 0.03)
        fill = np.maximum(fill, pool * scene.on(side))
    return Finding(_mask(fill, scene), fill=np.clip(min(strength, 1) * fill, 0, 1))


def pneumothorax(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Air between lung and wall: an apical and lateral crescent without markings, a thin pleural line inside it."""
    side = int(rng.choice([-1, 1]))
    depth, fade = rng.uniform(0.28, 0.55), rng.uniform(0.7, 1.15)
    thick = depth * np.clip(1.25 - np.clip(scene.y, 0, 1) / fade, 0, None)
    here = scene.on(side) & (scene.air > 0) & (scene.y < 1)
    space = ramp(thick - scene.wall, 0.006) * here
    line = (
        np.exp(-(((scene.wall - thick) / 0.012) ** 2)) * here * (thick > 0.02) * np.clip(scene.air * 4, 0, 1)
    )
    mask = (scene.wall < thick + 0.012) & here & (thick > 0.02) & scene.field
    free = min(1.0, strength)
    # Beyond conspicuity 1 the free air cannot get emptier; the beam then also meets less of the wall.
    shadow = 0.30 * strength * line - 0.10 * strength * space * np.clip(scene.air * 4, 0, 1)
    return Finding(mask, collapsed=space * free, shadow=shadow * mask)


def lung_lesion(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Nodules and masses: one to three round, slightly lobulated shadows, 6-15 % of the image's width."""
    shadow = np.zeros_like(scene.u)
    for k in range(int(rng.choice([1, 2, 2, 3]))):
        side, down = int(rng.choice([-1, 1])), rng.uniform(0.18, 0.80)
        out = rng.uniform(0.70 if side > 0 and down > 0.5 else 0.52, 0.84)  # beside even a large heart
        off = np.abs(scene.x - out) + np.abs(scene.y - down) + 9 * ~scene.on(side)
        row, column = np.unravel_index(off.argmin(), off.shape)
        radius = rng.uniform(0.11, 0.17) * (1 if k == 0 else 0.7)
        du, dv = scene.u - scene.u[row, column], scene.v - scene.v[row, column]
        lobes = sum(0.035 * np.cos(n * np.arctan2(dv, du) + rng.uniform(0, 6.3)) for n in (2, 3, 5))
        near = 1 - (np.hypot(du, dv) / (radius * (1 + lobes))) ** 2
        shadow = np.maximum(shadow, np.sqrt(np.clip(near, 0, None)) * (0.85 + 2.5 * radius))
    mask = (shadow > EDGE * shadow.max()) & (scene.air > 0)
    return Finding(mask, shadow=0.36 * WATER * strength * shadow * np.clip(scene.air * 6, 0, 1))


def _patch(rng, scene: Scene, side: int, centre, radii, *, rough: float, soft: float) -> Map:
    """A cloudy ellipse in lung coordinates, 1 inside, on one side."""
    radius = np.hypot((scene.x - centre[0]) / radii[0], (scene.y - centre[1]) / radii[1])
    radius = radius + rough * (
        0.4 * clouds(rng, scene.u, scene.v, 0.28) + 0.15 * clouds(rng, scene.u, scene.v, 0.09)
    )
    return ramp(1 - radius, soft) * scene.on(side)


def _mask(fill: Map, scene: Scene) -> Bool[np.ndarray, "H W"]:
    seen = fill * scene.field
    return seen > EDGE * max(float(seen.max()), 1e-6)
