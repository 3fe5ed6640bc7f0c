"""One view: from a patient, the findings of a study and a camera to the picture and its masks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.anatomy import Scene, frontal
from chexseg_jax.phantom.devices import support_devices
from chexseg_jax.phantom.film import Film, expose
from chexseg_jax.phantom.findings import (
    Finding,
    airspace_opacity,
    atelectasis,
    consolidation,
    edema,
    lung_lesion,
    pleural_effusion,
    pneumothorax,
)
from chexseg_jax.phantom.geometry import Camera, Map
from chexseg_jax.phantom.lateral import lateral
from chexseg_jax.phantom.patient import Patient

_DRAWN = {
    "Airspace Opacity": airspace_opacity,
    "Atelectasis": atelectasis,
    "Consolidation": consolidation,
    "Edema": edema,
    "Lung Lesion": lung_lesion,
    "Pleural Effusion": pleural_effusion,
    "Pneumothorax": pneumothorax,
    "Support Devices": support_devices,
}

#: What radiologists also call, and annotate as, Airspace Opacity.
OPACITIES = ("Atelectasis", "Consolidation", "Edema")


@dataclass(frozen=True)
class View:
    """Which picture: everything that its pixels depend on."""

    seed: int
    patient: int
    study: int
    number: int
    lateral: bool
    ap: bool
    findings: tuple[str, ...]  # tasks drawn; `Airspace Opacity` here is one without a named cause
    size: int  # pixels of the short side
    conspicuity: float = 1.0

    def rng(self, *purpose: int) -> np.random.Generator:
        """An independent stream for a purpose."""
        return np.random.default_rng([self.seed, self.patient, *purpose])

    def who(self) -> Patient:
        """The patient, the same in every view."""
        return Patient.sample(self.rng(0), self.patient)


@dataclass(frozen=True)
class Rendered:
    """A view's picture, masks, and the attenuation behind it."""

    image: UInt8[np.ndarray, "H W"]
    masks: Mapping[str, Bool[np.ndarray, "H W"]]
    attenuation: Map
    scene: Scene


def render(view: View) -> Rendered:
    """Draws a view. The same view is the same bytes anywhere.

    A study's findings look alike in its views; a finding's stream depends on nothing but patient, study and itself.
    """
    patient = view.who()
    rng = view.rng(1, view.study, view.number)
    camera = _camera(rng, view)
    film = Film.sample(rng, ap=view.ap, habitus=patient.habitus)
    breath, magnify = rng.uniform(0.02, 0.15), rng.uniform(1.02, 1.06)
    if view.ap:
        patient = patient.breathe_out(breath, magnify)
    scene = _scene(view, patient, camera)
    drawn = {
        task: _DRAWN[task](_stream(view, task), scene, view.conspicuity)
        for task in view.findings
        if task in _DRAWN
    }
    attenuation = _attenuation(scene, drawn.values())
    image = expose(film, camera, attenuation, view.rng(2, view.study, view.number))
    return Rendered(image, _masks(view, scene, drawn), attenuation, scene)


def _camera(rng: np.random.Generator, view: View) -> Camera:
    """Where the tube was pointed: zoom, shift, a few degrees of rotation, the film upright or across."""
    long = round(view.size * float(rng.choice([1.0, 1.1, 1.22, 1.25])))
    upright = view.lateral or rng.random() < 0.35
    height, width = (long, view.size) if upright else (view.size, long)
    # Frontal films are often taken at the bedside, and off centre; were they not, a box in the middle would find most
    # hearts and lungs.
    widest, off = (2.46, 1.0) if view.lateral else (2.75, 2.7)
    span = rng.uniform(2.16, widest)
    centre = (rng.normal(0, 0.037 * off), rng.normal(-0.06, 0.030 * off))
    return Camera(height, width, span / view.size, centre, float(rng.normal(0, 0.035)))


def _scene(view: View, patient: Patient, camera: Camera) -> Scene:
    """The chest, with the heart and the mediastinum as wide as the findings make them."""
    heart = mediastinum = 0.0
    if "Cardiomegaly" in view.findings:  # cardiothoracic ratio .56 to .68
        heart = _stream(view, "Cardiomegaly").uniform(1.26, 1.50) / patient.heart - 1
    if "Enlarged Cardiomediastinum" in view.findings:
        mediastinum = _stream(view, "Enlarged Cardiomediastinum").uniform(0.55, 0.95)
    widen = {"widen_heart": view.conspicuity * heart, "widen_vessels": view.conspicuity * mediastinum}
    if view.lateral:
        return lateral(patient, camera, seed=view.seed, **widen)
    return frontal(patient, camera, ap=view.ap, seed=view.seed, **widen)


def _attenuation(scene: Scene, drawn: Iterable[Finding]) -> Map:
    """Findings overlap like independent veils: what one fills the next cannot fill again."""
    empty, collapsed, shadow = np.float32(1), np.float32(0), np.float32(0)
    for finding in drawn:
        empty = empty * (1 - finding.fill)
        collapsed = np.maximum(collapsed, finding.collapsed)
        shadow = shadow + finding.shadow
    return (scene.attenuation(collapsed, 1 - empty) + shadow).astype(np.float32)


def _masks(view: View, scene: Scene, drawn: Mapping[str, Finding]) -> dict[str, Bool[np.ndarray, "H W"]]:
    """The ten masks; Airspace Opacity is the union of its kinds."""
    masks = {task: np.zeros(scene.u.shape, bool) for task in CHEXPERT.tasks}
    masks |= {task: finding.mask for task, finding in drawn.items()}
    if "Cardiomegaly" in view.findings:
        masks["Cardiomegaly"] = scene.heart
    if "Enlarged Cardiomediastinum" in view.findings:
        masks["Enlarged Cardiomediastinum"] = scene.cardiomediastinum
    for task in OPACITIES:
        masks["Airspace Opacity"] = masks["Airspace Opacity"] | masks[task]
    return masks


def _stream(view: View, task: str) -> np.random.Generator:
    return view.rng(3, view.study, CHEXPERT.tasks.index(task))
