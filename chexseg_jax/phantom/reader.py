"""A second reader who disagrees as radiologists do: a human benchmark for the phantom's test set.

The reader outlines findings differently (a smooth warp, a tighter or wider border), misses some, and claims some where
nothing is. The amount per task follows the agreement of CheXlocalize's readers: best on hearts, worst on small or faint
findings. Pooled IoU with the truth on the 126 of 150 test images with a finding (192 px, seed 0), which the files list:
Airspace Opacity .63, Atelectasis .56, Cardiomegaly .58, Consolidation .54, Edema .51, Enlarged Cardiomediastinum .53,
Lung Lesion .42, Pleural Effusion .55, Pneumothorax .66, Support Devices .55.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.anatomy import Scene
from chexseg_jax.phantom.geometry import Mask, clouds
from chexseg_jax.phantom.render import render
from chexseg_jax.phantom.view import View


class _Habit(NamedTuple):
    warp: float  # how far outlines stray, body units
    margin: float  # how much tighter or wider they are, body units
    miss: float  # probability of missing a finding
    claim: float  # probability of claiming one where none is


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


def second_reading(view: View, scene: Scene, masks: Mapping[str, Mask]) -> dict[str, Mask]:
    """Return the second reader's masks of a view, from its scene and true masks."""
    return {task: _reading(view, scene, task, masks[task]) for task in CHEXPERT.tasks}


def _reading(view: View, scene: Scene, task: str, truth: Mask) -> Mask:
    habit = _HABITS[task]
    rng = view.rng(4, view.study, view.number, CHEXPERT.tasks.index(task))
    luck = rng.random()
    if not truth.any():
        if luck >= habit.claim:
            return truth
        truth = render(replace(view, findings=(task,))).masks[task]
    elif luck < habit.miss:
        return np.zeros_like(truth)
    return _redraw(rng, scene, habit, truth)


def _redraw(rng: np.random.Generator, scene: Scene, habit: _Habit, truth: Mask) -> Mask:
    """Warp a mask, then shrink or grow it."""
    pixel = scene.camera.pixel
    warp = [habit.warp / pixel * clouds(rng, scene.u, scene.v, 0.45) for _ in range(2)]
    rows, columns = np.indices(truth.shape, np.float32)
    source = [rows + warp[0], columns + warp[1]]
    moved = ndimage.map_coordinates(truth.astype(np.float32), source, order=1) > 0.5
    margin = rng.normal(0, habit.margin) / pixel
    if abs(margin) < 0.5 or not moved.any():
        return moved
    if margin > 0:
        return ndimage.distance_transform_edt(~moved) <= margin
    smaller = ndimage.distance_transform_edt(moved) > -margin
    return smaller if smaller.any() else moved
