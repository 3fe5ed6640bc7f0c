"""The lateral view: simpler than the frontal one, with the lungs superimposed and the patient facing left."""

import numpy as np

from chexseg_jax.phantom.anatomy import WATER, Scene
from chexseg_jax.phantom.geometry import Camera, Map, Mask, clouds, curve, dome, draw, ramp
from chexseg_jax.phantom.patient import Patient
from chexseg_jax.phantom.vessels import vessel_tree


def lateral(
    patient: Patient, camera: Camera, *, seed: int, widen_heart: float = 0.0, widen_vessels: float = 0.0
) -> Scene:
    """Draw a lateral view; arguments as for `anatomy.frontal`."""
    rng = np.random.default_rng([seed, patient.number, 2])
    u, v = camera.grid()
    apex, base = patient.apex, patient.base
    front = curve([(apex, 0.05), (-0.7, -0.42), (-0.3, -0.62), (0.3, -0.72), (0.9, -0.74)], 0.05)(v)
    back = curve([(apex, 0.30), (-0.7, 0.56), (-0.2, 0.70), (0.4, 0.70), (1.0, 0.58)], 0.05)(v)
    slope = [(-0.8, 0.10), (-0.3, -0.02), (0.1, 0.05), (0.45, 0.30), (0.8, 0.5)]
    floor = curve([(at, base + d) for at, d in slope])(u)

    sides = [np.clip(d, 1e-3, None) for d in (u - front, back - u, v - apex)]
    wall = sum(d**-2 for d in sides) ** -0.5  # distance to the nearest side, corners rounded
    lung = 1.08 * dome((u - front) / 0.25) * dome((back - u) / 0.3)
    lung = lung * dome((floor - v) / 0.08) * dome((v - apex) / 0.3)
    lung *= 0.62 + 0.38 * ramp(v + 0.5, 0.12)
    heart_depth, heart = _heart(patient, u, v, widen_heart, floor)
    vessels_depth, great = _great_vessels(patient, u, v, widen_vessels)
    air = np.clip(lung - np.maximum(heart_depth, vessels_depth), 0, None)

    hilum = (0.02, -0.18)
    vessels = draw(camera, vessel_tree(rng, hilum, 0, 14))
    vessels += 0.3 * np.exp(-(((u - hilum[0]) / 0.12) ** 2) - ((v - hilum[1]) / 0.14) ** 2)
    tissue = WATER * _body(patient, u, v, front, back) + _bones(patient, u, v, front, back)
    trachea = dome((0.05 - np.abs(u - 0.10 - 0.10 * (v + 1))) / 0.05)
    tissue -= 0.4 * trachea * ramp(-0.3 - v, 0.04) * ramp(v + 1.9, 0.05)
    return Scene(
        patient=patient,
        camera=camera,
        u=u,
        v=v,
        x=(u - front) / np.maximum(back - front, 0.1),
        y=(v - apex) / np.maximum(floor - apex, 0.2),
        wall=wall,
        air=air,
        tissue=tissue.astype(np.float32),
        vessels=vessels,
        grain=1 + 0.1 * clouds(rng, u, v, 0.5) + 0.1 * clouds(rng, u, v, 0.05),
        heart=heart,
        cardiomediastinum=heart | great,
        hila={-1: hilum, 1: hilum},
        floor={-1: base + 0.40, 1: base + 0.40},
        trachea=0.05,
        lateral=True,
    )


def _heart(patient: Patient, u: Map, v: Map, widen: float, floor: Map) -> tuple[Map, Mask]:
    """Depth and silhouette of the heart, which lies on the anterior diaphragm behind the sternum."""
    grow = patient.heart * (1 + widen)
    cu, cv = -0.30 + 0.06 * widen, patient.base - 0.26 - 0.04 * widen
    egg = 1 - ((u - cu) / (0.40 * grow)) ** 2 - ((v - cv - 0.2 * (u - cu)) / (0.33 * grow)) ** 2
    depth = 0.62 * np.sqrt(np.clip(egg, 0, None))
    return depth.astype(np.float32), (depth > 0) & (v < floor + 0.1)


def _great_vessels(patient: Patient, u: Map, v: Map, widen: float) -> tuple[Map, Mask]:
    """Depth and silhouette of the aorta (ascending, arch, descending), faint in front of the spine."""
    half = 0.15 * patient.pedicle * (1 + widen)
    centre = curve([(-0.75, 0.05), (-0.4, -0.10), (0.0, -0.22), (0.3, -0.25)])(v)
    column = 1 - ((u - centre) / half) ** 2
    extent = ramp(v - patient.apex - 0.2, 0.04) * ramp(0.25 - v, 0.05)
    depth = (0.22 + 0.25 * widen) * np.sqrt(np.clip(column, 0, None)) * extent
    return depth.astype(np.float32), (column > 0) & (extent > 0.5)


def _body(patient: Patient, u: Map, v: Map, front: Map, back: Map) -> Map:
    """Depth of the body: trunk, raised arms, breast."""
    fat = patient.habitus
    skin = 0.10 + 0.12 * fat
    ahead = front - skin - 0.05 * ramp(v - 0.3, 0.2)
    if patient.breast:
        ahead = ahead - 0.2 * patient.breast * np.exp(-(((v - 0.25) / 0.3) ** 2))
    trunk = dome((u - ahead) / 0.45) * dome((back + skin + 0.08 - u) / 0.45)
    wide = curve([(-1.6, 0.5), (-1.0, 0.95), (-0.5, 1.22), (0.3, 1.30), (0.9, 1.38)])(v)
    arms = 0.55 * dome((0.45 - np.abs(u - 0.15)) / 0.3) * ramp(-0.85 - v, 0.12)
    return np.maximum(wide * np.float32(0.92 + 0.12 * fat) * trunk, arms)


def _bones(patient: Patient, u: Map, v: Map, front: Map, back: Map) -> Map:
    """Attenuation of the spine, the sternum and the ribs of both sides, which slant forward and down."""
    spine_at = back - 0.10
    q = v / (0.9 * patient.rib_spacing) + 0.3
    plate = np.abs(q - np.floor(q) - 0.5)
    spine = dome((0.115 - np.abs(u - spine_at)) / 0.06) * (0.42 + 0.2 * ramp(plate - 0.40, 0.02))
    sternum = 0.45 * np.exp(-(((u - front + 0.03) / 0.03) ** 2)) * ramp(v + 0.85, 0.05) * ramp(0.35 - v, 0.05)
    ribs = np.zeros_like(u)
    inside = ramp(u - front, 0.02) * ramp(back - u, 0.02)
    for phase, slope in ((0.0, 0.75), (0.45, 0.85)):
        r = (v - patient.apex + slope * (u - 0.3) + 0.5 * (u - 0.3) ** 2) / patient.rib_spacing + phase
        distance = np.abs(r - np.round(r)) * patient.rib_spacing * 0.75
        ribs += 0.2 * dome((0.042 - distance) / 0.042) * inside
    return spine + sternum + ribs
