"""Explain a classifier: saliency maps, the masks that a threshold makes of them, and their boxes.

files in --out:
  maps.npz             ID_Task|map: each map over its image, in [0, 1), of --maps images; ID_Task|prob: the probability
                       (CheXlocalize's names; python -m chexseg_jax.evaluation --maps reads them)
  segmentations.json   masks at full size, in CheXlocalize's format
  boxes.csv            one row per connected part of a mask: its box at full size
  ID.png               the most probable tasks: radiograph, map and mask

exit codes: 0 all images are done, 1 all but those that are named, 2 nothing was done
"""

import argparse
import csv
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from chexseg_jax.data.chexlocalize import Rle, decode, write_segmentations
from chexseg_jax.data.images import Frame, Radiograph, fit_image, fit_mask, read_radiograph
from chexseg_jax.data.prepared import Examples
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.errors import InputError, Parser, PartlyDoneError, naming, run_command
from chexseg_jax.files import new_folder
from chexseg_jax.models import ENCODERS
from chexseg_jax.models.normalisation import normalise
from chexseg_jax.predict.inputs import find_images, naming_long_ids
from chexseg_jax.predict.masks import boxes, threshold_map
from chexseg_jax.processes import check_devices
from chexseg_jax.progress import say, track
from chexseg_jax.report.figures import draw_saliency
from chexseg_jax.saliency.gradcam import grad_cam, scale_within_picture
from chexseg_jax.saliency.thresholds import otsu
from chexseg_jax.saved_model import Restored, restore
from chexseg_jax.training.inference import make_inference, map_batches

METHODS = {"gradcam": partial(grad_cam, plus_plus=False), "gradcam++": partial(grad_cam, plus_plus=True)}
COLUMNS = ("image", "task", "probability", "x0", "y0", "x1", "y1", "pixels")
#: Images at a time; tasks in an overlay; longest side of its pictures, in pixels.
_BATCH, _TASKS, _SIDE = 8, 4, 512


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    flags = _parse(arguments)
    images = find_images([*flags.images, *flags.input])
    check_devices()
    model = _open(flags.checkpoint)
    limits = parse_threshold(flags.threshold, model.taxonomy)
    drawn, stored = (
        len(images) if value == "all" else int(value.replace("none", "0"))
        for value in (flags.overlays, flags.maps)
    )
    with new_folder(flags.out) as part:
        failures = explain(
            part,
            model,
            images,
            method=flags.method,
            limits=limits,
            cutoff=flags.cutoff,
            drawn=drawn,
            stored=stored,
        )
        if len(failures) == len(images) == 1:
            raise failures[0]
        for failure in failures:
            say(f"left out: {failure}")
        if len(failures) == len(images):
            raise InputError(f"none of {len(images)} images could be explained; they are named above")
    say(f"{len(images) - len(failures)} of {len(images)} images, {flags.method}: {flags.out}")
    if failures:
        raise PartlyDoneError(f"{len(failures)} of {len(images)} images are left out; they are named above")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command line.

    Raises:
      InputError: naming a flag whose value means nothing, or if there is no image.
    """
    parser = Parser(
        prog="chexseg saliency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several: dict[str, Any] = {"type": Path, "metavar": "IMAGE", "default": []}
    parser.add_argument("images", nargs="*", **several, help="radiographs, or folders of them")
    parser.add_argument("-i", "--input", nargs="+", action="extend", **several, help="the same")
    parser.add_argument("-m", "--checkpoint", required=True, metavar="DIR", help="folder of a classifier")
    parser.add_argument("-o", "--out", required=True, type=Path, metavar="DIR", help="a new folder")
    parser.add_argument("--method", choices=list(METHODS), default="gradcam", help="(%(default)s)")
    parser.add_argument(
        "--threshold",
        default="otsu",
        metavar="otsu|T|FILE",
        help="value above which a pixel of a map belongs to the mask: Otsu's of each map (the default), one number "
        "in [0, 1), or a JSON of one number a task, such as the thresholds.json of tuned pseudo-masks",
    )
    parser.add_argument(
        "--cutoff",
        type=float,
        default=0.0,
        metavar="P",
        help="probability below which a task's mask is empty (0: none is)",
    )
    parser.add_argument(
        "--overlays", default="all", metavar="N", help="draw N overlays: all, none or a number (all)"
    )
    parser.add_argument(
        "--maps", default="all", metavar="N", help="store the maps of N images: all, none or a number (all)"
    )
    flags = parser.parse_args(arguments)
    for flag, value in (("--overlays", flags.overlays), ("--maps", flags.maps)):
        if value not in ("all", "none") and not value.isdecimal():
            raise InputError(f"{flag} {value} must be all, none or a number")
    if not 0 <= flags.cutoff <= 1:
        raise InputError(f"--cutoff {flags.cutoff} must be in [0, 1]")
    if not (flags.images or flags.input):
        raise InputError("no radiograph: give images or folders; --help lists the flags")
    return flags


def _open(checkpoint: str) -> Restored:
    """Restore a classifier, and say what it was trained on.

    Where its outputs are not its task set's labels, they are the tasks themselves.
    """
    model = restore(checkpoint)
    if model.config.name not in ENCODERS or not model.config.num_classes:
        raise InputError(
            f"{checkpoint}: holds a {model.config.name} with {model.config.num_classes} outputs, not a classifier; "
            "give the folder of one, such as artifacts/classifier-*"
        )
    if not model.tasks:
        raise InputError(f"{checkpoint}: its outputs have no names; import it with --labels")
    if model.tasks != model.taxonomy.labels:
        with naming(Path(checkpoint)):
            model = replace(model, taxonomy=Taxonomy(labels=model.tasks, tasks=model.tasks))
    say(f"{checkpoint}: {model.provenance}")
    return model


def parse_threshold(text: str, taxonomy: Taxonomy) -> Float[np.ndarray, " K"] | None:
    """The thresholds of the tasks; None for Otsu's.

    Raises:
      InputError: for anything but otsu, a number in [0, 1), or the path of a JSON of these by task.
    """
    if text == "otsu":
        return None
    values: Any = text
    if text.endswith(".json"):
        try:
            values = json.loads(Path(text).read_text())
            values = [values[task] for task in taxonomy.tasks]
        except (OSError, ValueError, TypeError) as error:  # "null" is that of Otsu's
            raise InputError(f"--threshold {text}: not a JSON of a number for each task ({error})") from None
        except KeyError as error:
            raise InputError(
                f"--threshold {text}: has no {error.args[0]!r}; give a number for each task"
            ) from None
    try:
        limits = np.broadcast_to(np.asarray(values, float), len(taxonomy.tasks))
    except (ValueError, TypeError):
        limits = np.array([np.nan])
    if not ((limits >= 0) & (limits < 1)).all():
        raise InputError(f"--threshold {text} must be otsu, numbers in [0, 1), or a JSON of these by task")
    return limits


@dataclass(frozen=True)
class Explained:
    """The maps of one image.

    Attributes:
      name: the image's id.
      image: the radiograph.
      maps: in [0, 1), over the picture in the network's frame, without padding.
      probabilities: of the tasks.
      limits: the threshold of each map.
    """

    name: str
    image: Radiograph
    maps: Float[np.ndarray, "h w K"]
    probabilities: Float[np.ndarray, " K"]
    limits: Float[np.ndarray, " K"]

    def code(self, k: int, cutoff: float) -> Rle:
        """The mask of task k at full size; empty below the probability `cutoff`."""
        limit = np.inf if self.probabilities[k] < cutoff else float(self.limits[k])
        return threshold_map(self.maps[..., k], self.image.grey.shape, limit)


def explain(
    part: Path,
    model: Restored,
    images: dict[str, Path],
    *,
    method: str,
    limits: Float[np.ndarray, " K"] | None,
    cutoff: float,
    drawn: int,
    stored: int,
) -> list[InputError]:
    """Write the files that the command's help lists; return the errors of the images that are left out.

    Args:
      part: an empty folder.
      model: a classifier.
      images: id -> file.
      method: of `METHODS`.
      limits: see `parse_threshold`.
      cutoff: probability below which a mask is empty.
      drawn: number of images to draw.
      stored: number of images whose maps are stored.
    """
    tasks = model.taxonomy.tasks
    network = f"{'phantom-trained ' * bool(model.provenance.synthetic)}{model.config.name}"
    failures: list[InputError] = []
    with (
        # Higher levels are slower and save a hundredth more.
        zipfile.ZipFile(part / "maps.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        (part / "boxes.csv").open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)

        def codes() -> Iterator[tuple[str, dict[str, Rle]]]:
            found = _explained(model, images, method, limits, failures)
            for number, one in enumerate(found):
                ranked = np.argsort(-one.probabilities, kind="stable")[: _TASKS * (number < drawn)].tolist()
                masks = {task: one.code(k, cutoff) for k, task in enumerate(tasks)}
                if ranked:
                    shown = {k: decode(masks[tasks[k]]) for k in ranked}
                    title = f"{one.name}: {network}"
                    try:
                        with naming_long_ids(images[one.name]):
                            _draw(part / f"{one.name}.png", one, shown, method, model.taxonomy, title)
                    except InputError as error:
                        failures.append(error)
                        continue
                for k, task in enumerate(tasks):
                    key, probability = f"{one.name}_{task}", one.probabilities[k]
                    if number < stored:
                        _add(archive, f"{key}|map", one.maps[..., k])
                    _add(archive, f"{key}|prob", probability)
                    table.writerows(
                        [one.name, task, f"{probability:.4f}", *box] for box in boxes(masks[task]).tolist()
                    )
                yield one.name, masks

        write_segmentations(part / "segmentations.json", codes(), model.taxonomy)
    return failures


def _explained(
    model: Restored,
    images: dict[str, Path],
    method: str,
    limits: Float[np.ndarray, " K"] | None,
    failures: list[InputError],
) -> Iterator[Explained]:
    """Yield the readable images, batch by batch; append the errors of the others to `failures`."""
    size, tasks = model.config.size, jnp.asarray(model.taxonomy.label_indices)

    def compute(variables: Any, batch: Any) -> Any:
        inputs = normalise(batch["image"], model.normalisation)
        logits, maps = METHODS[method](model.module, variables, inputs)
        return jax.nn.sigmoid(logits[:, tasks]), *scale_within_picture(
            maps[..., tasks], batch["window"], size
        )

    infer, names = make_inference(compute), list(images)
    starts = range(0, len(names), _BATCH)
    for start in track(starts, "explaining batches", len(starts)):
        read = {}
        for name in names[start : start + _BATCH]:
            try:
                read[name] = read_radiograph(images[name])
            except InputError as error:
                failures.append(error)
        if not read:
            continue
        frames = [Frame(image.grey.shape[0], image.grey.shape[1], size) for image in read.values()]
        examples = Examples(
            image=np.stack([fit_image(image.grey, size) for image in read.values()]),
            window=np.array([[*frame.corner, *frame.content] for frame in frames], np.int32),
        )
        ((probabilities, maps, picture),) = map_batches(infer, model.variables, examples, batch_size=_BATCH)
        chosen = otsu(maps, picture) if limits is None else np.tile(limits, (len(read), 1))
        for i, (name, image) in enumerate(read.items()):
            yield Explained(name, image, maps[i][frames[i].window], probabilities[i], chosen[i])


def _add(archive: zipfile.ZipFile, key: str, values: Any) -> None:
    """Add an array to an npz; `np.savez` would need all of them in memory."""
    with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.asarray(values, np.float32))


def _draw(
    path: Path,
    one: Explained,
    masks: dict[int, Bool[np.ndarray, "H W"]],
    method: str,
    taxonomy: Taxonomy,
    title: str,
) -> None:
    """One row per task: the radiograph, the map over it, the mask."""
    grey = one.image.grey
    side = min(_SIDE, max(grey.shape))
    window = Frame(grey.shape[0], grey.shape[1], side).window
    picture, small = fit_image(grey, side)[window], []
    for k, mask in masks.items():
        alone = np.zeros((*picture.shape, len(taxonomy.tasks)), bool)
        alone[..., k] = fit_mask(mask, side)[window]
        small.append(alone)
    draw_saliency(
        path,
        [picture] * len(masks),
        [f"{taxonomy.tasks[k]}: {one.probabilities[k]:.2f}" for k in masks],
        [(method.replace("gradcam", "Grad-CAM"), [one.maps[..., k] for k in masks])],
        small,
        taxonomy=taxonomy,
        title=title,
    )


if __name__ == "__main__":
    run_command(main)
