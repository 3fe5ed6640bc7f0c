"""The frontal view of a chest: border curves in body coordinates, and the attenuation within them.

Each structure attenuates by its thickness (in units of an average chest's depth, about 20 cm) times a coefficient, and
thicknesses add up along the beam as in a radiograph: ribs show through the heart, and the heart's border is sharp
because the thickness of a round body rises steeply there.
"""

from dataclasses import dataclass

import numpy as np

from chexseg_jax.phantom.geometry import (
    Camera,
    Curve,
    Map,
    Mask,
    Stroke,
    blur,
    clouds,
    curve,
    dome,
    draw,
    ramp,
)
from chexseg_jax.phantom.patient import Patient
from chexseg_jax.phantom.skeleton import frontal_bones
from chexseg_jax.phantom.vessels import vessel_tree

#: Attenuation of one unit of soft tissue or fluid.
WATER = 4.0

#: Density of a healthy lung relative to water.
LUNG = 0.27

#: Depth of lung below which other tissue hides it: outside the visible lung field.
VISIBLE = 0.06


@dataclass(frozen=True)
class Scene:
    """A view of a chest, ready for findings: maps over the image, and landmarks in body units.

    `x` runs from 0 at the midline (lateral view: the sternum) to 1 at the chest wall, `y` from 0 at the apices to 1
    at the diaphragm; `wall` is the distance to the chest wall in body units.
    """

    patient: Patient
    camera: Camera
    u: Map
    v: Map
    x: Map
    y: Map
    wall: Map
    air: Map  # depth of lung along the beam
    tissue: Map  # attenuation of everything but the lungs
    vessels: Map  # attenuation of the pulmonary vessels if nothing hid them
    grain: Map  # relative density of the lung around 1
    heart: Mask
    cardiomediastinum: Mask
    hila: dict[int, tuple[float, float]]  # by side: -1 the patient's right, +1 the left
    floor: dict[int, float]  # v of the costophrenic angle, by side
    trachea: float  # u of its middle
    lateral: bool = False

    @property
    def field(self) -> Mask:
        """The visible lung."""
        return self.air > VISIBLE

    def on_side(self, side: int) -> Mask:
        """Pixels on one side of the midline; on a lateral view, all pixels."""
        return np.ones_like(self.u, bool) if self.lateral else self.u * side > 0

    def attenuation(self, collapsed: Map, fill: Map) -> Map:
        """Total attenuation, given the shares of the lung that are free air and fluid."""
        aerated = np.clip(LUNG * self.grain, 0, 0.9)
        density = (1 - fill) * (1 - collapsed) * aerated + fill
        visible = np.clip(self.air * 4, 0, 1) * (1 - collapsed)
        return self.tissue - WATER * self.air * (1 - density) + self.vessels * visible * (1 - 0.7 * fill)


def frontal(
    patient: Patient,
    camera: Camera,
    *,
    ap: bool,
    seed: int,
    widen_heart: float = 0.0,
    widen_vessels: float = 0.0,
) -> Scene:
    """Draw a frontal view.

    Args:
      patient, camera: the chest, and where the view looks.
      ap: anteroposterior film: shoulder blades over the lungs.
      seed: of the whole phantom; with the patient's number it seeds the vessels and the grain of the lungs.
      widen_heart: cardiomegaly, as the share added to the heart's width.
      widen_vessels: enlarged mediastinum, as the share added to its width.
    """
    rng = np.random.default_rng([seed, patient.number, 1])
    u, v = camera.grid()
    a, left = np.abs(u), u > 0
    outer = _cage(patient)(v)
    floor_right, floor_left = _diaphragm(patient, 0.0), _diaphragm(patient, patient.dome_left)
    floor = np.where(left, floor_left(a), floor_right(a))
    top = [(patient.apex, 0.40), (patient.apex + 0.07, 0.24)]
    inner = curve([*top, (-0.7, 0.10), (0.2, 0.10), (0.7, 0.16)], 0.01)(v)

    slope = np.abs(np.gradient(outer, axis=0)) / np.float32(camera.pixel)
    wall = (outer - a) / np.sqrt(1 + slope**2)
    wall = np.where(v < patient.apex, np.minimum(wall, v - patient.apex), wall)
    lung = dome(wall / 0.42) * dome((a - inner) / 0.3) * dome((floor - v) / 0.10)
    lung = lung * 0.78 * (0.72 + 0.28 * ramp(v + 0.55, 0.15))

    heart_depth, heart = _heart(patient, u, v, widen_heart, floor)
    pedicle_depth, pedicle = _pedicle(patient, u, v, widen_vessels)
    air = np.clip(lung - np.maximum(heart_depth, pedicle_depth), 0, None)

    hila = {-1: (-0.27, -0.12), 1: (0.29, -0.17)}
    trees = [stroke for side in (-1, 1) for stroke in vessel_tree(rng, hila[side], side)]
    vessels = blur(draw(camera, trees), 0.008 / camera.pixel)
    for side in (-1, 1):
        hu, hv = hila[side]
        vessels += 0.22 * np.exp(-(((u - hu) / 0.09) ** 2) - ((v - hv) / 0.17) ** 2)
    grain = 1 + 0.10 * clouds(rng, u, v, 0.5) + 0.12 * clouds(rng, u, v, 0.05)

    tissue = WATER * _body(patient, u, v, floor) * (1 + 0.015 * clouds(rng, u, v, 0.25))
    tissue += frontal_bones(patient, u, v, outer, ap=ap, pixel=camera.pixel)
    tissue -= _airways(patient, camera, u, v)
    tissue -= _stomach(patient, u, v)
    return Scene(
        patient=patient,
        camera=camera,
        u=u,
        v=v,
        x=a / outer,
        y=(v - patient.apex) / np.maximum(floor - patient.apex, 0.2),
        wall=wall,
        air=air,
        tissue=tissue,
        vessels=vessels,
        grain=grain,
        heart=heart,
        cardiomediastinum=heart | pedicle,
        hila=hila,
        floor={-1: float(floor_right(0.94 * patient.width)), 1: float(floor_left(0.94 * patient.width))},
        trachea=0.4 * patient.sway,
    )


def _cage(patient: Patient) -> Curve:
    """Inner border of the rib cage: half-width as a function of v."""
    points = [(0.0, 0.40), (0.05, 0.56), (0.16, 0.72), (0.45, 0.90), (0.9, 0.985), (1.4, 1.0), (2.2, 0.95)]
    return curve([(patient.apex + t, w * patient.width) for t, w in points], 0.015)


def _diaphragm(patient: Patient, lower: float) -> Curve:
    """Hemidiaphragm: v as a function of the distance from the midline."""
    points = [(0.0, 0.03), (0.2, 0.02), (0.42, 0.0), (0.62, 0.04), (0.8, 0.17), (0.93, 0.33), (1.05, 0.5)]
    return curve([(a * patient.width, patient.base + lower + d) for a, d in points], 0.03)


def _heart(patient: Patient, u: Map, v: Map, widen: float, floor: Map) -> tuple[Map, Mask]:
    """Depth and silhouette of the heart: ventricles (a tilted ellipse) and right atrium.

    A wider heart grows more to the left than to the right and contains the narrower one.
    """
    size = patient.heart
    grow = 1 + widen
    cu, cv = 0.13 * size + 0.12 * widen, patient.base - 0.26 - 0.04 * widen
    cos, sin = np.cos(patient.tilt * (1 - 0.3 * widen)), np.sin(patient.tilt * (1 - 0.3 * widen))
    along = ((u - cu) * cos + (v - cv) * sin) / (0.48 * size * grow)
    across = ((v - cv) * cos - (u - cu) * sin) / (0.34 * size * (1 + 0.8 * widen))
    ventricles = 1 - along**2 - across**2
    au, av = -0.10 * size - 0.05 * widen, cv + 0.02
    atrium = 1 - ((u - au) / (0.22 * size * grow)) ** 2 - ((v - av) / (0.31 * size * (1 + 0.6 * widen))) ** 2
    depth = np.sqrt(np.clip(np.maximum(ventricles, 0.8 * atrium), 0, None)) * (0.55 + 0.15 * widen)
    silhouette = (depth > 0) & (v < floor + 0.12)
    return depth.astype(np.float32), silhouette


def _pedicle(patient: Patient, u: Map, v: Map, widen: float) -> tuple[Map, Mask]:
    """Depth and silhouette of the mediastinum above the heart: great vessels, aortic knob, pulmonary trunk."""
    wide = patient.pedicle * (1 + widen)
    knob, top = patient.knob * (1 + 0.5 * widen), patient.apex
    right = curve([(top, 0.15), (-0.75, 0.165), (-0.5, 0.18), (-0.2, 0.19), (0.1, 0.20)], 0.03)(v) * wide
    upper, lower = [(top, 0.13), (-0.8, 0.145), (-0.68, 0.17)], [(-0.44, 0.165), (-0.26, 0.21), (0.1, 0.25)]
    left = curve([*upper, (-0.58, 0.175), *lower], 0.02)(v)
    left = left * wide + knob * np.exp(-(((v + 0.56) / (0.10 + 0.08 * widen)) ** 2))
    across = np.where(u < 0, -u / right, u / left)
    below = ramp(patient.base - 0.25 - v, 0.05)
    depth = np.sqrt(np.clip(1 - across**2, 0, None)) * (0.42 + 0.1 * widen) * below
    silhouette = (across < 1) & (v > top + 0.08) & (v < patient.base - 0.2)
    return depth.astype(np.float32), silhouette


def _body(patient: Patient, u: Map, v: Map, floor: Map) -> Map:
    """Depth of the body: trunk, shoulders and arms, neck, breasts."""
    a = np.abs(u)
    fat = patient.habitus
    trunk = patient.width + 0.10 + 0.22 * fat
    thick = curve([(-1.6, 0.45), (-1.15, 0.62), (-0.7, 0.86), (0.0, 0.98), (0.6, 1.0), (1.2, 1.06)])(v)
    thick = thick * np.float32(0.92 + 0.20 * fat)
    chest = thick * np.clip(1 - (a / trunk) ** 4, 0, None) ** 0.5 * ramp(v + 1.12, 0.05)
    neck = [(-1.9, 0.33), (-1.5, 0.34), (-1.36, 0.42), (-1.22, 0.75)]
    shoulder = [(-1.1, 1.15), (-0.95, 1.42), (-0.6, 1.55)]
    outline = curve([*neck, *shoulder, (1.5, 1.6 + 0.5 * patient.arms)], 0.02)(v)
    outline = outline * np.float32(0.94 + 0.14 * fat)
    limbs = (0.42 + 0.12 * fat) * dome((outline - a) / 0.3)
    armpit = trunk + (0.06 + 0.42 * patient.arms) * np.clip(v + 0.5, 0, None)
    above = ramp(-0.40 - v - 0.25 * (a - trunk), 0.03)  # the shoulder muscles bridge the gap
    arm = limbs * np.maximum(above, dome((a - armpit) / 0.22))
    throat = 0.55 * dome((0.36 - a) / 0.25) * ramp(-0.95 - v, 0.1)
    depth = np.maximum(np.maximum(chest, arm), throat)
    if patient.breast:
        size = 0.34 + 0.12 * patient.breast
        lobe = 1 - ((a - 0.56) / size) ** 2 - ((v - 0.42 - 0.12 * patient.breast) / size) ** 2
        depth = depth + 0.13 * patient.breast * np.sqrt(np.clip(lobe, 0, None))
    return depth.astype(np.float32) + 0.02 * ramp(v - floor, 0.05)


def _airways(patient: Patient, camera: Camera, u: Map, v: Map) -> Map:
    """Attenuation that air in the trachea and the main bronchi removes."""
    middle = 0.4 * patient.sway
    trachea = dome((0.055 - np.abs(u - middle)) / 0.055) * ramp(-0.42 - v, 0.03) * ramp(v + 1.9, 0.05)
    right = Stroke(np.array([(middle, -0.44), (-0.12, -0.32), (-0.26, -0.16)]), 0.07)
    left = Stroke(np.array([(middle, -0.44), (0.14, -0.32), (0.30, -0.24)]), 0.06)
    return 0.34 * np.maximum(trachea, 0.6 * draw(camera, [right, left]))


def _stomach(patient: Patient, u: Map, v: Map) -> Map:
    """Attenuation that gas under the left dome of the diaphragm removes."""
    if not patient.stomach:
        return np.zeros_like(u)
    size = patient.stomach
    top = patient.base + patient.dome_left + 0.05
    bubble = 1 - ((u - 0.46) / (0.2 * size)) ** 2 - ((v - top - 0.09 * size) / (0.085 * size)) ** 2
    return np.float32(1.3) * np.sqrt(np.clip(bubble, 0, None))
