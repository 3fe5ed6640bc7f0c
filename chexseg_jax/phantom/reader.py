"""A second reader, who disagrees as radiologists do: a human benchmark for the phantom's test set.

What is seen is outlined differently (a smooth warp, a border drawn tighter or wider); some findings are missed, some
seen where there is nothing. How much, by task, follows how well CheXlocalize's readers agree: best on hearts, worst
on small or faint things. Pooled IoU with the truth, measured on 150 test images at 192 px, seed 0: Airspace Opacity
.61, Atelectasis .42, Cardiomegaly .58, Consolidation .48, Edema .50, Enlarged Cardiomediastinum .50, Lung Lesion .39,
Pleural Effusion .52, Pneumothorax .58, Support Devices .53.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.anatomy import Scene
from chexseg_jax.phantom.geometry import clouds
from chexseg_jax.phantom.render import View, render


@dataclass(frozen=True)
class _Habit:
    warp: float  # how far outlines wander, units
    margin: float  # how much tighter or wider they are drawn, units
    miss: float  # chance that a finding is overlooked
    claim: float  # chance that one is seen where there is none


_HABITS: dict[str, _Habit] = {
    "Airspace Opacity": _Habit(0.09, 0.05, 0.12, 0.10),
    "Atelectasis": _Habit(0.030, 0.018, 0.12, 0.06),
    "Cardiomegaly": _Habit(0.06, 0.035, 0.10, 0.06),
    "Consolidation": _Habit(0.06, 0.05, 0.15, 0.04),
    "Edema": _Habit(0.10, 0.06, 0.12, 0.05),
    "Enlarged Cardiomediastinum": _Habit(0.08, 0.05, 0.14, 0.10),
    "Lung Lesion": _Habit(0.020, 0.014, 0.12, 0.02),
    "Pleural Effusion": _Habit(0.05, 0.03, 0.10, 0.05),
    "Pneumothorax": _Habit(0.04, 0.025, 0.12, 0.02),
    "Support Devices": _Habit(0.016, 0.010, 0.12, 0.08),
}


def second_reading(
    view: View, scene: Scene, masks: Mapping[str, Bool[np.ndarray, "H W"]]
) -> dict[str, Bool[np.ndarray, "H W"]]:
    """The second reader's ten masks of a view, given the scene and the true ones."""
    return {task: _reading(view, scene, task, masks[task]) for task in CHEXPERT.tasks}


def _reading(view: View, scene: Scene, task: str, truth: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    habit = _HABITS[task]
    rng = view.rng(4, view.study, view.number, CHEXPERT.tasks.index(task))
    luck = rng.random()
    if not truth.any():
        if luck >= habit.claim:
            return truth
        truth = _imagined(view, task)
    elif luck < habit.miss:
        return np.zeros_like(truth)
    return _redrawn(rng, scene, habit, truth)


def _imagined(view: View, task: str) -> Bool[np.ndarray, "H W"]:
    """What the task would look like in this patient."""
    return render(View(**{**vars(view), "findings": (task,)})).masks[task]


def _redrawn(rng: np.random.Generator, scene: Scene, habit: _Habit, truth: Bool[np.ndarray, "H W"]):
    pixel = scene.camera.pixel
    warp = [habit.warp / pixel * clouds(rng, scene.u, scene.v, 0.45) for _ in range(2)]
    rows, columns = np.indices(truth.shape, np.float32)
    moved = (
        ndimage.map_coordinates(truth.astype(np.float32), [rows + warp[0], columns + warp[1]], order=1) > 0.5
    )
    margin = rng.normal(0, habit.margin) / pixel
    if abs(margin) < 0.5 or not moved.any():
        return moved
    if margin > 0:
        return ndimage.distance_transform_edt(~moved) <= margin
    smaller = ndimage.distance_transform_edt(moved) > -margin
    return smaller if smaller.any() else moved
