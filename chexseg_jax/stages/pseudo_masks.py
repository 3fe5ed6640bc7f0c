"""Stage: pseudo-masks from saliency maps: one threshold per pathology, tuned on the expert training images."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt16
from ml_collections import ConfigDict

from chexseg_jax.data import chexpert
from chexseg_jax.data.images import Frame, pack_masks, unpack_masks
from chexseg_jax.data.prepared import Prepared, task_labels
from chexseg_jax.evaluation.iou import Counts, mean, per_image
from chexseg_jax.evaluation.iou import counts as counts_of
from chexseg_jax.pathologies import TASKS
from chexseg_jax.progress import say, track
from chexseg_jax.saliency.gradcam import normalise, upsample
from chexseg_jax.saliency.thresholds import best_thresholds, mean_iou, otsu, threshold_counts
from chexseg_jax.stages.artifact import artifact
from chexseg_jax.stages.cams import digest
from chexseg_jax.stages.scores import centred_boxes

_CHUNK = 64
#: For a task that no expert training image shows.
_FALLBACK = 0.5


def choose_pseudo_set(weak: Prepared, *, count: int, uncertainty: str, seed: int) -> tuple[int, ...]:
    """Draws the weakly labelled images that get pseudo-masks: `count` of those with a positive task label."""
    candidates = np.flatnonzero(positive_tasks(weak.labels, uncertainty).any(1))
    if len(candidates) > count:
        candidates = np.sort(np.random.default_rng([seed, count]).choice(candidates, count, replace=False))
    return tuple(int(i) for i in candidates)


def positive_tasks(labels: Float[np.ndarray, "N 14"], uncertainty: str) -> Bool[np.ndarray, "N 10"]:
    """Which tasks the image labels say are there, uncertain ones as the policy has it."""
    targets, weights = chexpert.targets(labels, uncertainty)
    return task_labels(targets * weights) > 0.5


def make_pseudo_masks(
    store: Path,
    config: ConfigDict,
    *,
    uncertainty: str,
    weak: Path,
    weak_rows: Sequence[int],
    weak_maps: Path,
    expert: Path,
    expert_rows: Sequence[int],
    expert_maps: Path,
) -> Path:
    """Thresholds maps at the training size; a pathology whose label is negative has an empty mask.

    Args:
      store: the folder of artifacts.
      config: `threshold` ("tuned": per task the one of {0, .05, ..., .95} with the best mean IoU on the expert
        training images that show it; "otsu": per map), `gate` (empty masks for negative labels).
      uncertainty: the policy for labels of -1.
      weak, weak_rows, weak_maps: prepared set, the chosen rows, and their maps (`maps.npy`, aligned on the rows).
      expert, expert_rows, expert_maps: the same for the expert training images.

    Returns:
      The artifact: a `Prepared` set whose masks are the pseudo-masks, `thresholds.json` (None under otsu), and
      `quality.json`: on the expert training images, where they were tuned, mean IoU per task of such masks
      (`cam`) and of centred boxes of the same areas (`box`).
    """
    key = {
        "config": config,
        "uncertainty": uncertainty,
        "weak": [weak.name, digest(weak_rows), weak_maps.name],
        "expert": [expert.name, digest(expert_rows), expert_maps.name],
    }

    def make(part: Path) -> None:
        annotated = Prepared.load(expert).take(expert_rows)
        thresholds, quality = _tune(annotated, np.load(expert_maps / "maps.npy"), config.threshold)
        (part / "thresholds.json").write_text(json.dumps(thresholds, indent=1))
        (part / "quality.json").write_text(json.dumps(quality, indent=1))
        if absent := [task for task in TASKS if quality["cam"][task] is None]:
            say(
                f"pseudo-masks: no expert training image shows {', '.join(absent)}; threshold {_FALLBACK} there"
            )
        chosen = Prepared.load(weak).take(weak_rows)
        gate = positive_tasks(chosen.labels, uncertainty) if config.gate else None
        maps = np.load(weak_maps / "maps.npy", mmap_mode="r")
        chosen.with_masks(_threshold(maps, chosen, thresholds, gate)).save(part)

    return artifact(store, "pseudo-masks", key, make)


def _tune(
    annotated: Prepared, maps: Float[np.ndarray, "N h w 10"], rule: str
) -> tuple[dict[str, float] | None, dict[str, dict[str, float | None]]]:
    """The thresholds by `rule`, and what masks made with them score on the annotated images."""
    shown = np.stack([unpack_masks(np.bitwise_or.reduce(m, axis=None)) for m in annotated.masks])
    thresholds = None
    if rule == "tuned":
        counts = [threshold_counts(scores, truth) for scores, truth, _ in _scored(annotated, maps)]
        iou = mean_iou(*(np.concatenate(c) for c in zip(*counts, strict=True)), shown)
        best = best_thresholds(iou, fallback=_FALLBACK)
        thresholds = dict(zip(TASKS, map(float, best), strict=True))
    scored: dict[str, list] = {"cam": [], "box": []}
    for scores, truth, sizes in _scored(annotated, maps):
        masks = scores > _limits(scores, thresholds)
        frames = [Frame(*map(int, size), annotated.size) for size in sizes]
        scored["cam"].append(counts_of(masks, truth))
        scored["box"].append(
            counts_of(np.stack([_boxes(m, f) for m, f in zip(masks, frames, strict=True)]), truth)
        )
    quality = {}
    for name, parts in scored.items():
        each = per_image(
            Counts(*(np.concatenate(c) for c in zip(*parts, strict=True))), true_positives_only=False
        )
        means = mean(np.where(shown, each, np.nan), axis=0)
        quality[name] = {
            task: None if np.isnan(v) else round(float(v), 4) for task, v in zip(TASKS, means, strict=True)
        }
    return thresholds, quality


def _scored(
    annotated: Prepared, maps: Float[np.ndarray, "N h w 10"]
) -> Iterator[tuple[Float[np.ndarray, "B S S 10"], Bool[np.ndarray, "B S S 10"], Int[np.ndarray, "B 2"]]]:
    """Normalised maps at the training size with the true masks and the full sizes, some images at a time."""
    for start in range(0, len(annotated), _CHUNK):
        rows = slice(start, start + _CHUNK)
        sizes = annotated.sizes[rows]
        yield _at_size(maps[rows], sizes, annotated.size), unpack_masks(annotated.masks[rows]), sizes


def _at_size(
    maps: Float[np.ndarray, "B h w 10"], sizes: Int[np.ndarray, "B 2"], size: int
) -> Float[np.ndarray, "B S S 10"]:
    """Maps at the training size, normalised over the picture: on the padding around it nothing can be."""
    picture = np.zeros((len(maps), size, size, 1), np.float32)
    for inside, full in zip(picture, sizes, strict=True):
        inside[Frame(*map(int, full), size).window] = 1
    return np.asarray(normalise(upsample(maps, (size, size)) * picture))


def _limits(scores: Float[np.ndarray, "B S S 10"], thresholds: dict[str, float] | None) -> np.ndarray:
    """What a score must exceed, per task, or per map by Otsu's rule."""
    if thresholds is None:
        return otsu(scores)[:, None, None, :]
    return np.array([thresholds[task] for task in TASKS], np.float32)


def _boxes(masks: Bool[np.ndarray, "S S 10"], frame: Frame) -> Bool[np.ndarray, "S S 10"]:
    """Centred boxes with the areas of `masks`, of the picture's aspect, inside the picture."""
    rows, columns = frame.content
    boxes = np.zeros_like(masks)
    boxes[frame.window] = centred_boxes(
        (rows, columns), np.minimum(masks.sum((0, 1)) / (rows * columns), 1.0)
    )
    return boxes


def _threshold(
    maps: Float[np.ndarray, "N h w 10"],
    images: Prepared,
    thresholds: dict[str, float] | None,
    gate: Bool[np.ndarray, "N 10"] | None,
) -> UInt16[np.ndarray, "N S S"]:
    planes = np.zeros((len(maps), images.size, images.size), np.uint16)
    starts = range(0, len(maps), _CHUNK)
    for start in track(starts, "thresholding maps", len(starts)):
        rows = slice(start, start + _CHUNK)
        scores = _at_size(maps[rows], images.sizes[rows], images.size)
        masks = scores > _limits(scores, thresholds)
        if gate is not None:
            masks &= gate[rows, None, None, :]
        planes[rows] = pack_masks(masks)
    return planes
