"""Write items as a root in our layout."""

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import Rle, empty, write_segmentations
from chexseg_jax.data.layout import image_id
from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy, write_taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.items import Item, LeftOut, image_size
from chexseg_jax.exchange.joining import SPLITS, labels_of_masks
from chexseg_jax.files import new_folder

_TABLES = {"train": "train.csv", "valid": "valid.csv", "test": "test_labels.csv"}
_MASKS = {"valid": "gt_segmentations_val.json", "test": "gt_segmentations_test.json"}
_META = chexpert.COLUMNS[: -len(CHEXPERT.labels)]


def write_root(
    out: Path,
    items: Sequence[Item],
    taxonomy: Taxonomy,
    *,
    copy: bool,
    left_out: LeftOut,
    command: str,
    marker: Path | None = None,
) -> list[str]:
    """Write a root that all commands read; it appears only when complete.

    Images are hard links to the given files, or symbolic ones where they lie on another disk; with `copy`, copies.
    `import.txt` says how it was made, with the names of all that was left out. A phantom's file `marker` is
    copied, since its images stay synthetic.

    Returns:
      Lines about what was written.

    Raises:
      InputError: if `out` exists, two images get one id, a mask does not have its image's size, or train or valid
        stays without images.
    """
    _check(items, taxonomy)
    links = Counter[str]()
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    masks: dict[str, dict[str, dict[str, Rle]]] = {split: {} for split in SPLITS}
    with new_folder(out) as aside:
        for item in items:
            place = Path(item.split, f"patient{item.patient}", f"study{item.study}", item.path.name)
            links[_give(item.path, aside / place, copy)] += 1
            view = "Frontal" if item.frontal else "Lateral"
            rows[item.split].append(
                {"Path": place.as_posix(), "Frontal/Lateral": view, **item.extra, **item.labels}
            )
            if item.masks is not None:
                # An image without any mask is listed by an empty one.
                codes = item.masks or {taxonomy.tasks[0]: empty(*image_size(item.path))}
                masks[item.split][image_id(place.parts)] = codes
        for split in SPLITS:
            if rows[split]:
                chexpert.write_labels(aside / _TABLES[split], rows[split], columns=(*_META, *taxonomy.labels))
            if masks[split] and split != "train":
                write_segmentations(aside / _MASKS[split], masks[split], taxonomy)
        write_taxonomy(aside, taxonomy)
        if marker:
            shutil.copyfile(marker, aside / marker.name)
        counts = [f"{len(rows[split])} {split} ({len(masks[split])} with masks)" for split in SPLITS]
        placed = [f"{number} {kind}" for kind, number in links.items()]
        lines = [", ".join(counts), f"images: {', '.join(placed)}", *_cautions(rows, masks, taxonomy)]
        lines += _contradictions(items, taxonomy)
        note = "\n".join([command, *lines, *left_out.lines(None), ""])
        (aside / "import.txt").write_text(note, encoding="utf-8", errors="backslashreplace")
    return lines


def _cautions(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], masks: Mapping[str, Mapping], taxonomy: Taxonomy
) -> list[str]:
    """What the user should know before training."""
    lines = [f"tasks: {', '.join(taxonomy.tasks)}; a missing mask is {taxonomy.missing}"]
    if masks["train"]:
        lines.append(f"train uses labels alone: the masks of {len(masks['train'])} images are not kept")
    if lacking := [split for split in _MASKS if not masks[split]]:
        lines.append(
            f"without masks in {' and in '.join(lacking)}, only classifiers and MoCo can train on this root"
        )
    unlabelled = sum(
        not any(row.get(label) in (0, 1, -1) for label in taxonomy.labels) for row in rows["train"]
    )
    if unlabelled:
        lines.append(
            f"{unlabelled} train images have no label at all; give --labels, or train with "
            "--config.data.uncertainty='ignore;blank=ignore'"
        )
    return lines


def _contradictions(items: Sequence[Item], taxonomy: Taxonomy) -> list[str]:
    """A line about labels that say other than the masks of their image; a table's labels are kept."""
    names = [
        f"{label} of {item.name}"
        for item in items
        for label, drawn in labels_of_masks(item, taxonomy).items()
        if item.labels[label] == 1 - drawn
    ]
    some = f"{', '.join(names[:3])}{', ...' * (len(names) > 3)}"
    return (
        [f"{len(names)} labels contradict the masks of their images, and are kept: {some}"] if names else []
    )


def _check(items: Sequence[Item], taxonomy: Taxonomy) -> None:
    for split in ("train", "valid"):
        if not any(item.split == split for item in items):
            raise InputError(
                f"no image is left for {split}; change the shares --valid and --test, or add images"
            )
    ids: dict[str, Path] = {}
    for item in items:
        name = image_id((f"patient{item.patient}", f"study{item.study}", item.path.name))
        if (other := ids.setdefault(name, item.path)) != item.path:
            raise InputError(f"{item.path}: gets the id of {other}, {name}; rename one")
        size = list(image_size(item.path)) if item.masks else []
        for task, code in (item.masks or {}).items():
            if code["size"] != size:
                raise InputError(f"{item.name}: the mask of {task} has size {code['size']}, its image {size}")


def _give(source: Path, target: Path, copy: bool) -> str:
    """Place an image; return how."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(source, target)
        return "copied"
    real = source.resolve()
    try:
        os.link(real, target)
        return "hard links"
    except OSError:  # another disk, another user's file, or no hard links here
        try:
            target.symlink_to(real)
        except OSError:
            raise InputError(f"{target.parent}: this file system has no links; give --copy") from None
        return "symbolic links, which need their images to stay where they are"
