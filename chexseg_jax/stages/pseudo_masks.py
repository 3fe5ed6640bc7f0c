"""Stage: pseudo-masks from saliency maps: one threshold per pathology, tuned on the expert training images."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32
from ml_collections import ConfigDict

from chexseg_jax.artifact import artifact
from chexseg_jax.data import chexpert
from chexseg_jax.data.images import Frame, unpack_masks
from chexseg_jax.data.images import pack_masks as pack_on_host
from chexseg_jax.data.prepared import CODES, ImageSource, Prepared, task_labels
from chexseg_jax.data.records import Records, write_rows
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.data.transforms import pack_masks
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.iou import Counts, mean, per_image
from chexseg_jax.evaluation.iou import counts as counts_of
from chexseg_jax.progress import say
from chexseg_jax.saliency.gradcam import scale_within_picture
from chexseg_jax.saliency.thresholds import best_thresholds, mean_iou, otsu, threshold_counts
from chexseg_jax.saved_model import restore
from chexseg_jax.stages.cams import digest
from chexseg_jax.stages.scores import centred_boxes
from chexseg_jax.training.inference import map_batches, probabilities_of

#: Images at a time: at 320 px the scores of one are 4 MB.
_BATCH = 16
#: For a task that no expert training image shows.
_FALLBACK = 0.5


def choose_pseudo_set(weak: Prepared, *, count: int, uncertainty: str, seed: int) -> tuple[int, ...]:
    """Draws the weakly labelled images that get pseudo-masks: `count` of those with a positive task label.

    Raises:
      InputError: for more than there are.
    """
    candidates = np.flatnonzero(positive_tasks(weak.labels, uncertainty).any(1))
    if count > len(candidates):
        raise InputError(
            f"{count} pseudo-masks are asked for, but only {len(candidates)} of the {len(weak)} weakly labelled images "
            "have a positive label: give fewer, by the argument count=N or, in a table, --config.grid.count and "
            "--config.weak_count"
        )
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
      weak, weak_rows, weak_maps: prepared set, the chosen rows, and their maps (of `make_cams` or `walk_maps`).
      expert, expert_rows, expert_maps: the same for the expert training images.

    Returns:
      The artifact: a `Prepared` set whose masks are the pseudo-masks and whose images are those of `weak`, which has to
      stay where it is; `thresholds.json` (None under otsu); and
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
        thresholds, quality = _tune(annotated, Records.open(expert_maps / "maps"), config.threshold)
        if jax.process_index() == 0:
            (part / "thresholds.json").write_text(json.dumps(thresholds, indent=1))
            (part / "quality.json").write_text(json.dumps(quality, indent=1))
        if absent := [task for task in TASKS if quality["cam"][task] is None]:
            say(
                f"pseudo-masks: no expert training image shows {', '.join(absent)}; threshold {_FALLBACK} there"
            )
        chosen = Prepared.load(weak).take(weak_rows)
        gate = positive_tasks(chosen.labels, uncertainty) | (not config.gate)
        masks = _write_masks(part, Records.open(weak_maps / "maps"), chosen, thresholds, gate)
        chosen.with_masks(masks).save(part)

    return artifact(store, "pseudo-masks", key, make, collective=True)


def refresh_pseudo_masks(store: Path, *, model: Path, pseudo: Path, uncertainty: str, gate: bool) -> Path:
    """What a segmentation sees in the radiographs that it has learnt from, for it to go on with (self-training).

    Args:
      store: the folder of artifacts.
      model: artifact of `train_segmentation`; its own thresholds are used.
      pseudo: artifact of `make_pseudo_masks`, or of this function; its radiographs and labels are taken.
      uncertainty: the policy for labels of -1.
      gate: empty masks for negative labels.

    Returns:
      The artifact: a `Prepared` set whose images are those of `pseudo`, which has to stay where it is.
    """
    key = {"model": model.name, "pseudo": pseudo.name, "uncertainty": uncertainty, "gate": gate}

    def make(part: Path) -> None:
        teacher, images = restore(model), Prepared.load(pseudo)
        infer = probabilities_of(teacher.module, teacher.normalisation)

        def masks(rows: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
            some = images.take(rows)
            allowed = iter(positive_tasks(some.labels, uncertainty) | (not gate))
            source = ImageSource(some.images)
            for batch in map_batches(
                infer, teacher.variables, source, batch_size=_BATCH, what="refreshing pseudo-masks"
            ):
                seen = batch > _row(teacher.thresholds)
                yield from ({"masks": pack_on_host(one & next(allowed))} for one in seen)

        records = write_rows(part, len(images), {"masks": CODES["masks"]}, masks, batch=_BATCH)
        images.with_masks(records["masks"]).save(part)

    return artifact(store, "refreshed-masks", key, make, collective=True)


def _tune(
    annotated: Prepared, maps: Records, rule: str
) -> tuple[dict[str, float] | None, dict[str, dict[str, float | None]]]:
    """The thresholds by `rule`, and what masks made with them score on the annotated images."""
    shown = annotated.shown()
    thresholds = None
    if rule == "tuned":
        counts = [threshold_counts(scores, truth) for scores, _, truth in _scored(annotated, maps)]
        iou = mean_iou(*(np.concatenate(c) for c in zip(*counts, strict=True)), shown)
        best = best_thresholds(iou, fallback=_FALLBACK)
        thresholds = dict(zip(TASKS, map(float, best), strict=True))
    scored: dict[str, list] = {"cam": [], "box": []}
    frames = iter([Frame(*map(int, size), annotated.size) for size in annotated.sizes])
    for scores, picture, truth in _scored(annotated, maps):
        masks = scores > (otsu(scores, picture)[:, None, None, :] if thresholds is None else _row(thresholds))
        scored["cam"].append(counts_of(masks, truth))
        scored["box"].append(counts_of(np.stack([_boxes(m, next(frames)) for m in masks]), truth))
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
    annotated: Prepared, maps: Records
) -> Iterator[
    tuple[Float[np.ndarray, "B S S 10"], Bool[np.ndarray, "B S S 1"], Bool[np.ndarray, "B S S 10"]]
]:
    """Scores, where they are of the picture, and the true masks, some images at a time."""
    for start, scored in zip(
        range(0, len(maps), _BATCH), _scores(maps, annotated.windows, annotated.size), strict=True
    ):
        yield *scored, unpack_masks(annotated.masks[start : start + _BATCH])


def _scores(
    maps: Records, windows: Int32[np.ndarray, "N 4"], size: int
) -> Iterator[tuple[Float[np.ndarray, "B S S 10"], Bool[np.ndarray, "B S S 1"]]]:
    at_size = jax.jit(scale_within_picture, static_argnums=2)
    for start in range(0, len(maps), _BATCH):
        rows = slice(start, start + _BATCH)
        yield jax.device_get(at_size(maps[rows], windows[rows], size))


def _row(thresholds: Mapping[str, float]) -> Float32[np.ndarray, "10"]:
    return np.array([thresholds[task] for task in TASKS], np.float32)


def _boxes(masks: Bool[np.ndarray, "S S 10"], frame: Frame) -> Bool[np.ndarray, "S S 10"]:
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
    thresholds: Mapping[str, float] | None,
    gate: Bool[np.ndarray, "N 10"],
) -> Records:
    """The masks as records in `part`: what lies above the threshold, where `gate` lets it be."""

    def masks(rows: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
        some, windows = maps.take(rows), images.windows[rows]
        if thresholds is None:
            scored = _scores(some, windows, images.size)
            limits = np.concatenate([otsu(*one).astype(np.float32) for one in scored])
        else:
            limits = np.broadcast_to(_row(thresholds), (len(rows), len(TASKS)))
        source = MapSource(some, windows, limits, gate[rows])
        for batch in map_batches(
            mask_planes(images.size), {}, source, batch_size=_BATCH, what="thresholding maps"
        ):
            yield from ({"masks": one} for one in batch)

    return write_rows(part, len(maps), {"masks": CODES["masks"]}, masks, batch=_BATCH)["masks"]


@dataclass(frozen=True)
class MapSource:
    """Random access to {"map" [h,w,10], "window" [4], "limits" [10], "gate" [10]}, for `mask_planes`."""

    maps: Records
    windows: Int32[np.ndarray, "N 4"]
    limits: Float32[np.ndarray, "N 10"]
    gate: Bool[np.ndarray, "N 10"]

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {
            "map": self.maps[row],
            "window": self.windows[row],
            "limits": self.limits[row],
            "gate": self.gate[row],
        }


def mask_planes(size: int) -> Callable:
    """The function of a batch that makes its masks, as bit-planes: two bytes a pixel come back, not forty."""

    def planes(_, batch):
        scores, _ = scale_within_picture(batch["map"], batch["window"], size)
        limits, gate = (batch[name][:, None, None, :] for name in ("limits", "gate"))
        return pack_masks((scores > limits) & gate)

    return planes
