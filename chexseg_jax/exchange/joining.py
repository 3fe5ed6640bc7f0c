"""Join what sources say about images, and complete it: names, tasks, patients, views and splits."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from chexseg_jax.data.taxonomy import CHEXPERT, Missing, Taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.drawing import union
from chexseg_jax.exchange.items import Contents, Item, LeftOut, is_chexpert

SPLITS = ("train", "valid", "test")


def rename(contents: Contents, names: Mapping[str, str]) -> Contents:
    """Give labels and tasks other names; those renamed to "" are left out, those that get one name are joined.

    Raises:
      InputError: for a name that the source does not have.
    """
    known = {*contents.tasks}.union(*((*item.labels, *(item.masks or ())) for item in contents.items))
    if unknown := sorted(names.keys() - known):
        raise InputError(f"--rename {unknown[0]}=: the source has {', '.join(sorted(known))}")
    own = {name: names.get(name, name) for name in known}
    items = [_named(item, own.__getitem__, own.__getitem__) for item in contents.items]
    return Contents(items, tuple(dict.fromkeys(own[task] for task in contents.tasks if own[task])))


def _named(item: Item, label: Callable[[str], str], task: Callable[[str], str]) -> Item:
    """An item with its labels and tasks renamed."""
    masks = None
    if item.masks is not None:
        masks = {name: union(codes) for name, codes in _gathered(item.masks, task).items()}
    labels = {name: _joined(values) for name, values in _gathered(item.labels, label).items()}
    return dataclasses.replace(item, labels=labels, masks=masks)


def _gathered(values: Mapping[str, Any], own_name: Callable[[str], str]) -> dict[str, list[Any]]:
    """The values by their own name, without those whose name is ""."""
    groups: dict[str, list[Any]] = {}
    for name, value in values.items():
        if new := own_name(name):
            groups.setdefault(new, []).append(value)
    return groups


def _joined(values: Sequence[float]) -> float:
    """One label of several: positive if one is, else uncertain, else blank; negative if all are."""
    return next((value for value in (1.0, -1.0) if value in values), float(np.sum(values)))


def merge(new: Sequence[Item], base: Sequence[Item]) -> list[Item]:
    """Items of annotations over those of a table of labels; an annotated image takes its masks from the annotations.

    A task that was empty stays so unless it is drawn now: annotation programs keep no empty masks. An annotated image
    in train leaves it: masks are used in valid and test.

    Raises:
      InputError: for an image that one source has twice.
    """
    by_path: dict[Path, Item] = {}
    for source in (base, new):
        seen: dict[Path, str] = {}
        for item in source:
            if item.path in seen:
                raise InputError(
                    f"{item.path}: stands for two images, {seen[item.path]} and {item.name}; keep one"
                )
            seen[item.path] = item.name
            if (old := by_path.get(item.path)) and source is new:
                annotated = item.masks is not None
                known = {task: code for task, code in (old.masks or {}).items() if not coco.area(code)}
                item = dataclasses.replace(
                    old,
                    masks=known | item.masks if annotated else old.masks,
                    split=item.split or (None if annotated and old.split == "train" else old.split),
                    labels=old.labels | item.labels,
                    patient=old.patient or item.patient,
                    study=old.study or item.study,
                    frontal=item.frontal if old.frontal is None else old.frontal,
                    extra=item.extra | {name: cell for name, cell in old.extra.items() if cell},
                )
            by_path[item.path] = item
    return list(by_path.values())


def task_set(items: Sequence[Item], tasks: Sequence[str], known: Sequence[Taxonomy]) -> Taxonomy:
    """The labels and tasks of a root: the first of the known sets that has just these, else a set of their own.

    Args:
      items: with labels, masks, or both.
      tasks: that the sources of masks name; () if there are no masks.
      known: such as CheXpert's.
    """
    labels = list(dict.fromkeys(name for item in items for name in item.labels))
    for taxonomy in known:
        if (named := _resolved(taxonomy.label, labels)) is None:
            continue
        if _resolved(taxonomy.task, tasks) == {*taxonomy.tasks} or (
            not tasks and named == {*taxonomy.labels}
        ):
            return taxonomy
    own = list(tasks) or [label for label in labels if label != "No Finding"]
    spoken = {t: CHEXPERT.label_of[t] for t in own if t not in labels and CHEXPERT.label_of.get(t) in labels}
    labels += [task for task in own if task not in labels and task not in spoken]
    if not own:
        raise InputError("the source has neither labels nor masks; a table of labels is given with --labels")
    return Taxonomy(labels=tuple(labels), tasks=tuple(own), label_of=spoken)


def _resolved(own_name: Callable[[str], str], names: Sequence[str]) -> set[str] | None:
    try:
        return {own_name(name) for name in names}
    except InputError:
        return None


def canonical(
    items: Sequence[Item], taxonomy: Taxonomy, missing: Missing | None
) -> tuple[list[Item], Taxonomy]:
    """Items with the task set's own names; labels that no table gives, or leaves blank, are those of the masks.

    Raises:
      InputError: for a name that is neither task nor label, or if it matters what a missing mask means and `missing` is
        None.
    """
    named, own = [], dataclasses.replace(taxonomy, missing=missing or "empty")
    for item in items:
        item = _named(item, taxonomy.label, taxonomy.task)
        masks = item.masks
        if masks is not None and missing is None and len(masks) < len(taxonomy.tasks):
            task = next(task for task in taxonomy.tasks if task not in masks)
            raise InputError(
                f"{item.name}: has no mask of {task}; give --missing empty if a task without a mask is absent, or "
                "--missing unknown if it was not annotated"
            )
        drawn = labels_of_masks(item, own)
        if not masks and missing == "unknown":  # nobody is known to have looked at it
            masks = None
        given = {label: value for label, value in item.labels.items() if not math.isnan(value)}
        named.append(dataclasses.replace(item, masks=masks, labels=item.labels | drawn | given))
    return named, own


def labels_of_masks(item: Item, taxonomy: Taxonomy) -> dict[str, float]:
    """What an item's masks say of its labels: 1 if a task of the label has a pixel, 0 if the known ones have none."""
    labels: dict[str, float] = {}
    for task in taxonomy.tasks if item.masks is not None else ():
        if task in item.masks or taxonomy.missing == "empty":
            drawn = task in item.masks and coco.area(item.masks[task]) > 0
            label = taxonomy.label_of_task(task)
            labels[label] = max(float(drawn), labels.get(label, 0.0))
    return labels


def without_labels_of_masks(items: Sequence[Item], taxonomy: Taxonomy) -> list[Item]:
    """A root's items without labels that come from its masks alone, so that they change with the masks.

    These say on every image just what its masks say, and nothing on an image without.
    """
    said = [labels_of_masks(item, taxonomy) for item in items]
    own = {
        label
        for label in {taxonomy.label_of_task(task) for task in taxonomy.tasks}
        if any(label in labels for labels in said)
        if all(
            np.array_equal(item.labels[label], labels.get(label, math.nan), equal_nan=True)
            for item, labels in zip(items, said, strict=True)
        )
    }
    return [
        dataclasses.replace(item, labels={k: value for k, value in item.labels.items() if k not in own})
        for item in items
    ]


def find_patients(
    items: Sequence[Item], pattern: str | None, view: str | None, left_out: LeftOut
) -> list[Item]:
    """Items with their patients and views, by the source, CheXpert's folders, or what the user says.

    Args:
      items: of all sources.
      pattern: `image` (each image is a patient of its own), `folder` (the image's), or a regular expression whose group
        is found in the file's name; None if nothing was said.
      view: of images whose view is unknown; None if nothing was said.
      left_out: receives images of unknown view where others are known.

    Raises:
      InputError: if a patient, or every view, is unknown.
    """
    views = [item.frontal for item in items]
    if view is None and set(views) == {None}:
        raise InputError(
            "no source says whether images are frontal or lateral; say --view frontal or --view lateral"
        )
    complete = []
    for item in items:
        frontal = item.frontal if view is None or item.frontal is not None else view == "frontal"
        if frontal is None:
            left_out.add("images of unknown view; --view gives it", item.name)
            continue
        patient = item.patient or _patient(item.path, pattern)
        study = item.study or (
            item.path.parts[-2].removeprefix("study") if is_chexpert(item.path.parts) else "1"
        )
        patient, study = map(_folder_name, (patient, study))
        complete.append(dataclasses.replace(item, patient=patient, study=study, frontal=frontal))
    return complete


def _folder_name(name: str) -> str:
    """A patient or study as a part of an id: characters that no id has are replaced by their numbers in Unicode."""
    return re.sub(r"[^\w.-]|_(?=study)", lambda found: f"-{ord(found[0]):x}-", name)


def _patient(path: Path, pattern: str | None) -> str:
    match pattern:
        case None if is_chexpert(path.parts):
            return path.parts[-3].removeprefix("patient")
        case None:
            raise InputError(
                f"{path}: no source says whose it is, and no patient may be in two splits. Say --patient image "
                "(each image is another patient's), --patient folder, or a pattern of file names with the patient as "
                r"its group, such as --patient '(\d+)_'"
            )
        case "image":
            return path.stem
        case "folder":
            return path.parent.name
    try:
        found = re.search(pattern, path.name)
    except re.error as error:
        raise InputError(f"--patient {pattern!r}: not a regular expression ({error})") from None
    if not found or not found.groups() or not found[1]:
        raise InputError(f"--patient {pattern!r}: finds no group in {path.name}")
    return found[1]


def assign_splits(
    items: Sequence[Item], *, valid: float, test: float, seed: int, left_out: LeftOut
) -> list[Item]:
    """Items with their splits; no patient is in two.

    Splits that a source or list gives stay. The other images are drawn by patient; if any image has masks, only those
    with masks are, and the rest goes to train. Of a patient in several splits, the images in train, or else those in
    valid, are left out.

    Args:
      items: with patients; they get their splits.
      valid, test: shares of the patients that are split, from 0 to 1.
      seed: of the draw.
      left_out: receives the images that would put a patient into two splits.

    Raises:
      InputError: if nothing says what goes where.
    """
    masked = any(item.masks is not None for item in items)
    drawn = [item for item in items if not item.split and (item.masks is not None or not masked)]
    if drawn and not (valid or test) and (masked or not any(item.split for item in items)):
        raise InputError(
            f"{len(drawn)} images{' with masks' * masked} belong to no split; give shares of their patients, "
            "--valid 0.5 --test 0.5, lists of images, --valid-list and --test-list, or a source a split, test=FILE"
        )
    patients = np.random.default_rng(seed).permutation(sorted({item.patient for item in drawn}))
    counts = [round(test * len(patients)), round((test + valid) * len(patients))]
    split_of = {
        patient: "test" if i < counts[0] else "valid" if i < counts[1] else "train"
        for i, patient in enumerate(patients.tolist())
    }
    for item in items:
        weak = masked and item.masks is None
        item.split = item.split or ("train" if weak else split_of[item.patient])
    place: dict[str, int] = {}
    for item in items:
        place[item.patient] = max(place.get(item.patient, 0), SPLITS.index(item.split))
    kept = []
    for item in items:
        if (held := SPLITS[place[item.patient]]) != item.split:
            left_out.add(f"{item.split} images of patients in {held}", item.name)
        else:
            kept.append(item)
    return kept


def shares(valid: float, test: float) -> None:
    """Raise an `InputError` unless both are shares that leave no less than nothing."""
    if not (0 <= valid <= 1 and 0 <= test <= 1) or math.fsum((valid, test)) > 1:
        raise InputError(f"--valid {valid:g} --test {test:g}: must be shares from 0 to 1, together at most 1")
