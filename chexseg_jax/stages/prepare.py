"""Stage: a split's radiographs (and masks) at the training size. What cannot be read is counted and named."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import Segmentations
from chexseg_jax.data.images import fit_image, fit_mask, pack_masks, read_grey
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.errors import InputError
from chexseg_jax.progress import say, track
from chexseg_jax.stages.artifact import artifact


@dataclass(frozen=True)
class Split:
    """A split as its files hold it.

    Attributes:
      name: train, valid or test.
      studies: the table's rows.
      segmentations: the radiologists' masks; None for the weakly labelled.
      fingerprint: changes when the files do.
    """

    name: str
    studies: chexpert.Studies
    segmentations: Segmentations | None
    fingerprint: str


def prepare(store: Path, config: ConfigDict, split: Split) -> Path:
    """Decodes and letterboxes a split once: an artifact that `Prepared.load` opens.

    Of a split with masks, the annotated images are taken. Of one without, images that are missing or unreadable
    are left out, named in `left_out.json`, up to the share `config.max_missing`.

    Args:
      store: the folder of artifacts.
      config: `size` (pixels), `views` (frontal, lateral or both), `max_missing` (share of images).
      split: what to prepare.

    Raises:
      InputError: for too many unreadable images, an annotated image that is missing or not in the table, or
        masks of another size than their image.
    """
    key = {
        "split": split.name,
        "files": split.fingerprint,
        "size": config.size,
        "views": config.views,
        "max_missing": config.max_missing,
    }
    return artifact(store, f"prepare-{split.name}", key, lambda part: _prepare(part, config, split))


def _prepare(directory: Path, config: ConfigDict, split: Split) -> None:
    studies, annotated = split.studies, split.segmentations
    if config.views != "both":
        studies = studies.take(np.flatnonzero(studies.frontal == (config.views == "frontal")))
    if annotated is not None:
        row = {image_id: i for i, image_id in enumerate(split.studies.ids)}
        if unknown := [image_id for image_id in annotated.ids if image_id not in row]:
            raise InputError(
                f"{annotated.path}: {len(unknown)} annotated images are not in the {split.name} table, "
                f"such as {unknown[0]}"
            )
        studies = studies.take([i for i, image_id in enumerate(studies.ids) if image_id in annotated])
    if not len(studies):
        raise InputError(f"the {split.name} split has no {config.views} image; see config.data.views")

    size, count = config.size, len(studies)
    images = np.zeros((count, size, size), np.uint8)
    sizes = np.zeros((count, 2), np.int32)
    masks = None if annotated is None else np.zeros((count, size, size), np.uint16)
    left_out: dict[str, str] = {}
    for i, image in track(_decode(studies), f"reading {split.name} images", count):
        if isinstance(image, InputError):
            if annotated is not None:
                raise image
            left_out[studies.ids[i]] = str(image)
            if len(left_out) > config.max_missing * count:
                raise InputError(
                    f"more than {config.max_missing:.1%} of the {count} {split.name} images cannot be read "
                    f"(config.data.max_missing); the last: {image}"
                )
            continue
        images[i], sizes[i] = fit_image(image, size), image.shape
        if masks is not None:
            annotated.check_size(studies.ids[i], image.shape, studies.paths[i])
            masks[i] = pack_masks(fit_mask(annotated.masks(studies.ids[i]), size))
    kept = np.array([i for i in range(count) if studies.ids[i] not in left_out])
    if left_out:
        some = "; ".join(list(left_out.values())[:3])
        say(f"{split.name}: {len(left_out)} of {count} images left out (all in left_out.json): {some}")
    (directory / "left_out.json").write_text(json.dumps(left_out, indent=1))
    prepared = Prepared(studies.ids, images, studies.labels, sizes, masks)
    (prepared.take(kept) if left_out else prepared).save(directory)


def _decode(studies: chexpert.Studies) -> Iterator[tuple[int, UInt8[np.ndarray, "H W"] | InputError]]:
    """Reads images in threads (Pillow lets go of the interpreter while it decodes), a window ahead, in order."""

    def read(path: Path) -> UInt8[np.ndarray, "H W"] | InputError:
        try:
            return read_grey(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor() as pool:
        window = 64
        for start in range(0, len(studies), window):
            yield from enumerate(pool.map(read, studies.paths[start : start + window]), start)
