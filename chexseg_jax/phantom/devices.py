"""Support devices: lines, tubes, pacemakers and ECG wires, placed as in patients.

The mask holds the pixels where the attenuation of the devices exceeds 0.6 x `EDGE` of a wire's, dilated by about a
pixel at 320 px.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from chexseg_jax.phantom.anatomy import Scene
from chexseg_jax.phantom.findings import EDGE, Finding
from chexseg_jax.phantom.geometry import Point, Points, Stroke, draw, spline

#: How far the mask exceeds the device, in body units.
MARGIN = 0.008


def support_devices(rng: np.random.Generator, scene: Scene, strength: float) -> Finding:
    """Draw one or more devices; the sets of the bedside (line, tube, wires) are commonest."""
    kinds = [central_line, tracheal_tube, gastric_tube, pacemaker, ecg_wires, chest_tube, sternal_wires]
    probabilities = np.array([0.55, 0.32, 0.30, 0.22, 0.45, 0.12, 0.15])
    chosen = rng.random(len(kinds)) < probabilities
    if not chosen[:5].any():
        chosen[int(rng.choice([0, 3, 4]))] = True
    devices = [kind(rng, scene) for kind in kinds]  # all of them, so that the stream ignores the choice
    strokes = [stroke for device, on in zip(devices, chosen, strict=True) if on for stroke in device]
    metal = draw(scene.camera, strokes, oversample=3)
    reach = max(1, round(MARGIN / scene.camera.pixel))
    mask = ndimage.binary_dilation(metal > EDGE * 0.6, iterations=reach)
    return Finding(mask, shadow=strength * metal)


def central_line(rng: np.random.Generator, scene: Scene) -> list[Stroke]:
    """A venous catheter (jugular, subclavian or from the arm) with its tip in the superior vena cava."""
    top, tip = scene.patient.apex, (rng.uniform(-0.20, -0.15), rng.uniform(-0.25, 0.12))
    cava = [(-0.17, -0.50), tip]
    routes = [
        [(-0.36, top - 0.7), (-0.33, top - 0.3), (-0.24, top + 0.05), *cava],
        [(0.36, top - 0.7), (0.32, top - 0.2), (0.18, top + 0.2), (-0.05, -0.62), *cava],
        [(-0.95, top + 0.16), (-0.65, top + 0.03), (-0.35, top + 0.12), *cava],
        [(-1.55, 0.1), (-1.25, -0.55), (-0.95, top + 0.14), (-0.5, top + 0.10), (-0.25, top + 0.25), *cava],
        [(1.55, 0.1), (1.25, -0.55), (0.95, top + 0.12), (0.5, top + 0.10), (0.1, -0.66), *cava],
    ]
    route = routes[int(rng.choice(5, p=[0.4, 0.12, 0.13, 0.2, 0.15]))]
    if scene.lateral:
        route = [(-0.05, top - 0.6), (-0.1, top), (-0.12, -0.5), (-0.14, tip[1])]
    return [Stroke(_path(rng, route), 0.024, 0.75)]


def tracheal_tube(rng: np.random.Generator, scene: Scene) -> list[Stroke]:
    """An endotracheal tube: two walls and an opaque line, its tip above the carina."""
    trachea, tip = scene.trachea, rng.uniform(-0.72, -0.52)
    path = spline([(trachea + rng.normal(0, 0.02), -2.0), (trachea, -1.2), (trachea + 0.02, tip)])
    line = Stroke(path + np.array((0.014, 0)), 0.016, 0.95)
    return [Stroke(path, 0.062, 0.45), Stroke(path, 0.036, 0.28), line]


def gastric_tube(rng: np.random.Generator, scene: Scene) -> list[Stroke]:
    """A nasogastric tube down the oesophagus, through the hiatus, into the stomach."""
    trachea, base = scene.trachea, scene.patient.base
    curl = [(0.10, base + 0.05), (0.26, base + 0.26), (0.48, base + rng.uniform(0.15, 0.32))]
    path = [(trachea + 0.05, -2.0), (trachea + 0.05, -1.0), (0.07, -0.3), (0.06, base - 0.25), *curl]
    if scene.lateral:
        path = [(trachea + 0.1, -2.0), (trachea + 0.12, -1.0), (0.24, -0.2), (0.22, base), (0.0, base + 0.3)]
    return [Stroke(_path(rng, path), 0.026, 0.8)]


def pacemaker(rng: np.random.Generator, scene: Scene) -> list[Stroke]:
    """A generator below the left (rarely right) clavicle with one or two leads into the right heart."""
    side = 1 if rng.random() < 0.85 else -1
    box = np.array((side * rng.uniform(0.70, 0.82), rng.uniform(-0.68, -0.52)))
    if scene.lateral:
        box = np.array((-0.62, rng.uniform(-0.6, -0.45)))
    strokes = [Stroke(_loop(box, 0.058, 0.072), 0.095, 2.0), Stroke(_loop(box, 0.03, 0.03), 0.05, 1.5)]
    ends = [(rng.uniform(0.22, 0.42), scene.patient.base - 0.05), (-0.17, 0.08)]
    for end in ends[: 1 + (rng.random() < 0.7)]:
        vein: list[Point] = [(0.2 * side, -0.72), (-0.14, -0.48), (-0.17, 0.0), end]
        lead = [box - (0, 0.06), 0.8 * box - (0, 0.21), *vein]
        if scene.lateral:
            shoulder = (box[0] + 0.2, box[1] - 0.25)
            lead = [box, shoulder, (-0.1, -0.6), (-0.12, 0.0), (end[0] - 0.6, end[1] - 0.1)]
        strokes.insert(0, Stroke(_path(rng, lead, 0.015), 0.024, 1.0))
    return strokes


def ecg_wires(rng: np.random.Generator, scene: Scene) -> list[Stroke]:
    """Electrodes on the skin, each with a snap and a lead that runs off the film."""
    strokes = []
    places = [(-0.78, -0.62), (0.78, -0.6), (-0.72, 0.5), (0.8, 0.42), (0.4, 0.2)]
    for place in rng.permutation(len(places))[: int(rng.integers(3, 5))]:
        snap = np.array(places[place]) + rng.normal(0, 0.07, 2)
        if scene.lateral:
            snap = snap * (0.6, 1)
        end = np.array((np.sign(snap[0]) * rng.uniform(0.3, 1.7), rng.choice([-1.8, 1.6])))
        middle = (snap + end) / 2 + rng.normal(0, 0.15, 2)
        lead = spline([snap, (2 * snap + middle) / 3 + rng.normal(0, 0.05, 2), middle, end])
        strokes += [Stroke(lead, 0.017, 0.7), Stroke(_loop(snap, 0.022, 0.022), 0.036, 1.3)]
    return strokes


def chest_tube(rng: np.random.Generator, scene: Scene) -> list[Stroke]:
    """A pleural drain: in through the flank and up along the wall, with an opaque line."""
    side = int(rng.choice([-1, 1]))
    flank = [(1.5 * side, 0.45), (1.05 * side, 0.30), (0.82 * side, 0.0)]
    path = _path(rng, [*flank, (0.6 * side, rng.uniform(-0.75, -0.3))])
    return [Stroke(path, 0.05, 0.40), Stroke(path, 0.018, 1.0)]


def sternal_wires(rng: np.random.Generator, scene: Scene) -> list[Stroke]:
    """Cerclage after sternotomy: a column of small loops on the midline."""
    sternum = -0.78 if scene.lateral else 0.0
    levels = np.linspace(-0.72, 0.12, 5)
    return [Stroke(_loop((sternum + rng.normal(0, 0.012), v), 0.045, 0.025), 0.018, 1.1) for v in levels]


def _loop(centre: Point, half_width: float, half_height: float) -> Points:
    turn = np.linspace(0, 2.1 * np.pi, 20)
    return np.asarray(centre) + np.stack([half_width * np.cos(turn), half_height * np.sin(turn)], -1)


def _path(rng: np.random.Generator, points: Sequence[Point], jitter: float = 0.012) -> Points:
    """A smooth path through randomly shifted points."""
    return spline(np.array(points, float) + rng.normal(0, jitter, (len(points), 2)))
