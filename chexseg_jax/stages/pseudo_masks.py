"""Stage: pseudo-masks from saliency maps, thresholded."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int32

from chexseg_jax.data.chexpert import positive_tasks, task_targets
from chexseg_jax.data.images import Frame
from chexseg_jax.data.prepared import CODES, Examples, Prepared
from chexseg_jax.data.records import Records, write_rows
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.data.transforms import pack_masks as pack_on_device
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.boxes import centred_boxes
from chexseg_jax.evaluation.iou import Counts, counts, mean, per_image
from chexseg_jax.progress import say
from chexseg_jax.saliency.gradcam import scale_within_picture
from chexseg_jax.saliency.thresholds import GRID, best_thresholds, mean_iou, otsu, threshold_counts
from chexseg_jax.saved_model import restore
from chexseg_jax.training.inference import map_batches

#: Batch size: the scores of ten tasks take 4 MB an image at 320 px.
_BATCH = 16
#: Threshold of a task without a mask in the expert training images.
_FALLBACK = 0.5


def draw_positives(weak: Prepared, *, count: int, uncertainty: str, seed: int) -> Int[np.ndarray, " M"]:
    """Draw at most `count` of the weakly labelled images with a positive task label; 0 for all of them.

    Draws of one seed are nested: a smaller one is a part of a larger one.
    """
    candidates = np.flatnonzero(positive_tasks(weak.labels, uncertainty, weak.taxonomy).any(1))
    return np.sort(np.random.default_rng(seed).permutation(candidates)[: count or None])


def draw_pseudo_set(
    positives: Int[np.ndarray, " M"], *, count: int, seed: int
) -> Int[np.ndarray, " {count}"]:
    """Draw the images of a trial that get pseudo-masks.

    Raises:
      InputError: for more than there are.
    """
    if count > len(positives):
        raise InputError(
            f"{count} pseudo-masks need as many weakly labelled images with a positive label, and only "
            f"{len(positives)} have one: give fewer, by the argument count=N or, in a table, --config.grid.count and "
            "--config.weak_count"
        )
    return np.sort(np.random.default_rng(seed).choice(positives, count, replace=False))


def make_pseudo_masks(
    part: Path,
    *,
    threshold: str | float,
    gate: bool,
    degenerate: str,
    uncertainty: str,
    weak: Path,
    weak_rows: Int[np.ndarray, " N"],
    weak_maps: Path,
    expert: Path,
    expert_rows: Int[np.ndarray, " M"],
    expert_maps: Path,
    imported: Path | None = None,
) -> None:
    """Threshold saliency maps at the training size.

    Args:
      part: receives a `Prepared` set with the pseudo-masks and the images of `weak`, which must stay in place;
        `thresholds.json` (null under otsu); and `quality.json`: on the expert training images, where they were tuned,
        the mean IoU per task of masks from the maps (`masks`) and of centred boxes of the same areas (`box`), and the
        tasks whose threshold is `degenerate`, each with the reason (see `degenerate_tasks`).
      threshold: "tuned": per task the one of {0, .05, ..., .95} with the best mean IoU on the expert training images
        that have the task; "otsu": per map; or one number for all.
      gate: empty masks for negative labels.
      degenerate: "keep" the masks of tasks with a degenerate threshold, or make them "unknown".
      uncertainty: the policy for uncertain and blank labels; the mask of a label that it ignores is unknown.
      weak, weak_rows, weak_maps: prepared set, rows, and their maps.
      expert, expert_rows, expert_maps: the same for the expert training images.
      imported: a classifier trained elsewhere; the masks of tasks for which it has no output are unknown.

    Raises:
      InputError: if all masks are unknown: a training on them would change nothing, with a loss of 0.
    """
    annotated = Prepared.load(expert).take(expert_rows)
    thresholds, quality = _tune(annotated, Records.open(expert_maps / "maps"), threshold)
    tasks = annotated.taxonomy.tasks
    outputs = restore(imported).outputs_of(annotated.taxonomy) if imported else np.zeros(len(tasks))
    silent = [task for task, output in zip(tasks, outputs, strict=True) if output < 0]
    reasons = degenerate_tasks(thresholds if threshold == "tuned" else None, quality, annotated.taxonomy)
    reasons |= dict.fromkeys(silent, "the classifier has no output for it")
    unknown = {*silent, *(reasons if degenerate == "unknown" else ())}
    if jax.process_index() == 0:
        named = None if thresholds is None else dict(zip(tasks, map(float, thresholds), strict=True))
        (part / "thresholds.json").write_text(json.dumps(named, indent=1))
        (part / "quality.json").write_text(json.dumps({**quality, "degenerate": reasons}, indent=1))
    absent = [task for task in tasks if quality["masks"][task] is None]
    if absent and threshold == "tuned":
        say(f"pseudo-masks: no expert training image has {', '.join(absent)}; threshold {_FALLBACK}")
    for task, reason in reasons.items():
        outcome = "unknown" if task in unknown else "kept (config.pseudo_masks.degenerate)"
        say(f"pseudo-masks: {task}: {reason}; its masks are {outcome}")
    chosen = Prepared.load(weak).take(weak_rows)
    present, ignored = task_targets(chosen.labels, uncertainty, chosen.taxonomy)
    known = ~ignored & ~np.array([task in unknown for task in tasks])
    if not known.any():
        raise InputError(
            "pseudo-masks: those of all tasks are unknown, so nothing could be learnt from them; give "
            "config.pseudo_masks.degenerate=keep, another labeller or threshold, or a better classifier"
        )
    maps = Records.open(weak_maps / "maps")
    masks = _write_masks(part, maps, chosen, thresholds, allowed=present | (not gate))
    chosen.with_masks(masks, known).save(part)


def degenerate_tasks(
    thresholds: Float64[np.ndarray, " K"] | None, quality: Mapping[str, Mapping[str, Any]], taxonomy: Taxonomy
) -> dict[str, str]:
    """The tasks whose thresholded maps say little about where a finding lies, each with the reason.

    Args:
      thresholds: those tuned per task; None if none were.
      quality: mean IoU of `masks` and of an equal-area centred `box`, by task.
      taxonomy: the tasks.

    Returns:
      Tasks whose tuned threshold is an end of the grid, or whose masks score below the box; none without an expert
      mask.
    """
    reasons = {}
    for k, task in enumerate(taxonomy.tasks):
        ours, box = quality["masks"][task], quality["box"][task]
        if ours is None:
            continue
        if thresholds is not None and thresholds[k] in (GRID[0], GRID[-1]):
            reasons[task] = f"the threshold, {thresholds[k]:g}, is an end of the grid"
        elif ours < box:
            reasons[task] = (
                f"its masks have IoU {ours:.3f} on expert images, a centred box of equal area {box:.3f}"
            )
    return reasons


def _tune(
    annotated: Prepared, maps: Records, rule: str | float
) -> tuple[Float64[np.ndarray, " K"] | None, dict[str, dict[str, float | None]]]:
    """The thresholds by `rule` (None under otsu), and the quality on the annotated images of masks made with them."""
    has_mask, taxonomy = annotated.has_mask(), annotated.taxonomy
    thresholds = None
    if rule == "tuned":
        parts = [
            threshold_counts(scores, truth, known) for scores, _, truth, known in _scored(annotated, maps)
        ]
        intersections, unions = (np.concatenate(c) for c in zip(*parts, strict=True))
        thresholds = best_thresholds(mean_iou(intersections, unions, has_mask), fallback=_FALLBACK)
    elif rule != "otsu":
        thresholds = np.full(len(taxonomy.tasks), float(rule))
    by_name: dict[str, list[Counts]] = {"masks": [], "box": []}
    frames = iter([Frame(int(height), int(width), annotated.size) for height, width in annotated.sizes])
    for scores, picture, truth, known in _scored(annotated, maps):
        limits = otsu(scores, picture)[:, None, None, :] if thresholds is None else np.float32(thresholds)
        masks = scores > limits
        by_name["masks"].append(counts(masks, truth).where(known))
        by_name["box"].append(counts(np.stack([_boxes(m, next(frames)) for m in masks]), truth).where(known))
    quality = {}
    for name, parts in by_name.items():
        every = Counts(*(np.concatenate(c) for c in zip(*parts, strict=True)))
        each = per_image(every, true_positives_only=False)
        quality[name] = taxonomy.named(mean(np.where(has_mask, each, np.nan), axis=0))
    return thresholds, quality


def _scored(
    annotated: Prepared, maps: Records
) -> Iterator[
    tuple[
        Float[np.ndarray, "B S S K"],
        Bool[np.ndarray, "B S S 1"],
        Bool[np.ndarray, "B S S K"],
        Bool[np.ndarray, "B K"],
    ]
]:
    """Batches of scores, the pixels inside the picture, true masks, and whether these are known."""
    for rows, scored in _scores(maps, annotated.windows, annotated.size):
        yield *scored, annotated.read_masks(rows), annotated.known[rows]


def _scores(
    maps: Records, windows: Int32[np.ndarray, "N 4"], size: int
) -> Iterator[tuple[slice, tuple[Float[np.ndarray, "B S S K"], Bool[np.ndarray, "B S S 1"]]]]:
    at_size = jax.jit(scale_within_picture, static_argnums=2)
    for start in range(0, len(maps), _BATCH):
        rows = slice(start, start + _BATCH)
        yield rows, jax.device_get(at_size(maps[rows], windows[rows], size))


def _boxes(masks: Bool[np.ndarray, "S S K"], frame: Frame) -> Bool[np.ndarray, "S S K"]:
    """Centred boxes with the areas of `masks`, of the picture's aspect, inside the picture."""
    rows, columns = frame.content
    boxes = np.zeros_like(masks)
    boxes[frame.window] = centred_boxes(
        (rows, columns), np.minimum(masks.sum((0, 1)) / (rows * columns), 1.0)
    )
    return boxes


def _write_masks(
    part: Path,
    maps: Records,
    images: Prepared,
    thresholds: Float64[np.ndarray, " K"] | None,
    allowed: Bool[np.ndarray, "N K"],
) -> Records:
    """Write the masks as records in `part`: pixels above the threshold, of the allowed tasks."""

    def make(rows: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
        some, windows = maps.take(rows), images.take(rows).windows
        if thresholds is None:
            scored = (scores for _, scores in _scores(some, windows, images.size))
            limits = np.concatenate([otsu(*one).astype(np.float32) for one in scored])
        else:
            limits = np.tile(np.float32(thresholds), (len(rows), 1))
        examples = Examples(map=some, window=windows, limits=limits, allowed=allowed[rows])
        for batch in map_batches(
            mask_planes(images.size), {}, examples, batch_size=_BATCH, what="thresholding maps"
        ):
            yield from ({"masks": one} for one in batch)

    return write_rows(part, len(maps), {"masks": CODES["masks"]}, make, batch=_BATCH)["masks"]


def mask_planes(size: int) -> Callable:
    """The function from a batch of maps to bit-planes: it returns a bit a pixel and task instead of a float."""

    def planes(_, batch):
        scores, _ = scale_within_picture(batch["map"], batch["window"], size)
        limits, allowed = (batch[name][:, None, None, :] for name in ("limits", "allowed"))
        return pack_on_device((scores > limits) & allowed)

    return planes
