"""Render one view: from its patient, findings and camera to the image and its masks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.anatomy import Scene, frontal
from chexseg_jax.phantom.devices import support_devices
from chexseg_jax.phantom.film import Film, expose
from chexseg_jax.phantom.findings import CHEST_FINDINGS, Finding
from chexseg_jax.phantom.geometry import Camera, Map, Mask
from chexseg_jax.phantom.lateral import lateral
from chexseg_jax.phantom.patient import Patient
from chexseg_jax.phantom.view import OPACITIES, View

#: Cardiomegaly and Enlarged Cardiomediastinum are absent: they change the anatomy itself, see `_scene`.
_DRAW = CHEST_FINDINGS | {"Support Devices": support_devices}


@dataclass(frozen=True)
class Rendered:
    """The image of a view, the mask of every task, and the attenuation and scene behind them."""

    image: UInt8[np.ndarray, "H W"]
    masks: Mapping[str, Mask]
    attenuation: Map
    scene: Scene


def render(view: View) -> Rendered:
    """Render a view. All views of a study show the same findings."""
    patient = view.sample_patient()
    rng = view.rng(1, view.study, view.number)
    camera = _sample_camera(rng, view)
    film = Film.sample(rng, ap=view.ap, habitus=patient.habitus)
    breath, magnify = rng.uniform(0.02, 0.15), rng.uniform(1.02, 1.06)
    if view.ap:
        patient = patient.breathe_out(breath, magnify)
    scene = _scene(view, patient, camera)
    findings = {
        task: _DRAW[task](view.finding_rng(task), scene, view.conspicuity)
        for task in view.findings
        if task in _DRAW
    }
    attenuation = _attenuation(scene, findings.values())
    image = expose(film, camera, attenuation, view.rng(2, view.study, view.number))
    return Rendered(image, _masks(view, scene, findings), attenuation, scene)


def _sample_camera(rng: np.random.Generator, view: View) -> Camera:
    """Sample zoom, shift and a few degrees of rotation, and whether the film is upright or across."""
    long = round(view.size * float(rng.choice([1.0, 1.1, 1.22, 1.25])))
    upright = view.lateral or rng.random() < 0.35
    height, width = (long, view.size) if upright else (view.size, long)
    # Frontal films, often taken at the bedside, are off centre. Otherwise a box in the middle of the image would find
    # most hearts and lungs.
    widest, off = (2.46, 1.0) if view.lateral else (2.75, 2.7)
    span = rng.uniform(2.16, widest)
    centre = (rng.normal(0, 0.037 * off), rng.normal(-0.06, 0.030 * off))
    return Camera(height, width, span / view.size, centre, float(rng.normal(0, 0.035)))


def _scene(view: View, patient: Patient, camera: Camera) -> Scene:
    """Draw the chest, with heart and mediastinum widened as the findings require."""
    heart = mediastinum = 0.0
    if "Cardiomegaly" in view.findings:  # cardiothoracic ratio .56 to .68
        heart = view.finding_rng("Cardiomegaly").uniform(1.26, 1.50) / patient.heart - 1
    if "Enlarged Cardiomediastinum" in view.findings:
        mediastinum = view.finding_rng("Enlarged Cardiomediastinum").uniform(0.55, 0.95)
    widen = {"widen_heart": view.conspicuity * heart, "widen_vessels": view.conspicuity * mediastinum}
    if view.lateral:
        return lateral(patient, camera, seed=view.seed, **widen)
    return frontal(patient, camera, ap=view.ap, seed=view.seed, **widen)


def _attenuation(scene: Scene, findings: Iterable[Finding]) -> Map:
    """Combine findings as independent veils: air that one finding fills is not there for the next."""
    empty, collapsed, shadow = (np.full_like(scene.u, value) for value in (1, 0, 0))
    for finding in findings:
        empty = empty * (1 - finding.fill)
        collapsed = np.maximum(collapsed, finding.collapsed)
        shadow = shadow + finding.shadow
    return (scene.attenuation(collapsed, 1 - empty) + shadow).astype(np.float32)


def _masks(view: View, scene: Scene, findings: Mapping[str, Finding]) -> dict[str, Mask]:
    """Collect the masks of all tasks; Airspace Opacity is the union of its kinds."""
    masks = {task: np.zeros(scene.u.shape, bool) for task in CHEXPERT.tasks}
    masks |= {task: finding.mask for task, finding in findings.items()}
    if "Cardiomegaly" in view.findings:
        masks["Cardiomegaly"] = scene.heart
    if "Enlarged Cardiomediastinum" in view.findings:
        masks["Enlarged Cardiomediastinum"] = scene.cardiomediastinum
    for task in OPACITIES:
        masks["Airspace Opacity"] = masks["Airspace Opacity"] | masks[task]
    return masks
