"""Where a user's two downloads, CheXpert and CheXlocalize, lie below one root."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from chexseg_jax.errors import InputError
from chexseg_jax.files import expand_home

CHEXPERT_URL = "https://stanfordmlgroup.github.io/competitions/chexpert/"
CHEXLOCALIZE_URL = "https://stanfordaimi.azurewebsites.net/datasets/abfb76e5-70d5-4315-badc-c94dd82e3d6d"

#: Below the root, folders that images may lie in. CheXlocalize's own CheXpert folder has them at the size of
#: its masks; `small` comes last, since its images are smaller than the masks.
_IMAGES = (
    "",
    "CheXpert-v1.0",
    "CheXpert",
    "CheXlocalize/CheXpert",
    "chexlocalize/CheXpert",
    "CheXpert-v1.0-small",
)
#: Below the root, the full-size download's folders. Batches 2 to 4 share the training patients and hold them without
#: a folder `train`; batch 1, "(validate & csv)", holds the tables and `valid`.
_BATCHES = ("CheXpert-v1.0 batch *", "chexpertchestxrays-*/CheXpert-v1.0 batch *")
#: Below the root, folders that CheXlocalize's JSON files may lie in.
_MASKS = ("", "CheXlocalize", "CheXlocalize/CheXlocalize", "chexlocalize", "chexlocalize/CheXlocalize")


@dataclass(frozen=True)
class Layout:
    """The files that the paper's experiments read; images are found from the tables' rows."""

    root: Path
    tables: Mapping[str, Path]  # by split: train, valid and, unless labels alone are read, test
    segmentations: Mapping[str, Path]  # by split: valid, test
    second_reader: Path | None  # other radiologists' masks of the test images: the human benchmark


def check_layout(root: str | Path, *, labels_alone: bool = False) -> Layout:
    """Finds the files of both downloads below `root`.

    The root may hold the downloads' folders (`CheXpert-v1.0-small/`, `CheXpert-v1.0 batch 2 (train 1)/` and so on,
    `CheXpert/`, `CheXlocalize/`, also one within the other, as they come) or the files themselves.

    Args:
      root: the folder.
      labels_alone: train and valid suffice, as CheXpert has them without CheXlocalize; what else is there is read too.

    Raises:
      InputError: listing everything that is missing at once, with where to get it.
    """
    root = expand_home(root).absolute()
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; it should hold CheXpert ({CHEXPERT_URL}) and CheXlocalize "
            f"({CHEXLOCALIZE_URL})"
        )
    # val_labels.csv first: CheXlocalize's images have its masks' size, those of CheXpert-small have not.
    names = {"train": ("train.csv",), "valid": ("val_labels.csv", "valid.csv"), "test": ("test_labels.csv",)}
    folders: list[str | Path] = [*_IMAGES, *_batches(root)]
    tables = {split: _first(root, folders, files) for split, files in names.items()}
    jsons = {"valid": ("gt_segmentations_val.json",), "test": ("gt_segmentations_test.json",)}
    segmentations = {split: _first(root, _MASKS, files) for split, files in jsons.items()}
    lacking = [
        f"{' or '.join(files)} ({'CheXpert' if files == ('train.csv',) else 'CheXlocalize'})"
        for wanted, found in ((names, tables), (jsons, segmentations))
        for split, files in wanted.items()
        if found[split] is None and not (labels_alone and (wanted is jsons or split == "test"))
    ]
    if lacking:
        raise InputError(
            f"{root}: missing {', '.join(lacking)}; get CheXpert from {CHEXPERT_URL} and CheXlocalize, which "
            f"brings the validation and test images too, from {CHEXLOCALIZE_URL}"
        )
    tables, segmentations = (
        {split: file for split, file in found.items() if file} for found in (tables, segmentations)
    )
    return Layout(root, tables, segmentations, _first(root, _MASKS, ("hb_segmentations_test.json",)))


def image_id(parts: Sequence[str]) -> str:
    """The id of an image: the last three parts of its path, `patient/study/view`, without the suffix, joined by `_`.

    `CheXpert-v1.0/valid/patient64541/study1/view1_frontal.jpg` is `patient64541_study1_view1_frontal`, as in
    CheXlocalize's files. A shorter path is joined as it is: `a.png` is `a`. Only the last suffix is cut, so
    `1.2.840.1.jpg` and `1.2.840.2.jpg` differ.

    Args:
      parts: of a table's path, or of a file's path below the folder that the user named.
    """
    *folders, view = parts[-3:]
    return "_".join((*folders, PurePath(view).stem))


def locate_images(root: Path) -> Callable[[Sequence[str]], Path]:
    """Return a function from the parts of a table's path to the image's file, which need not exist.

    Rows of one folder share a place, that of the first of them: probing all places for each of CheXpert's images takes
    minutes on a network disk. Where there are several, each patient's is the one that has its folder.

    Args:
      root: see `patient_folders`.
    """
    places: dict[tuple[str, ...], tuple[Path, dict[str, Path]]] = {}

    def locate(parts: Sequence[str]) -> Path:
        folder, below = tuple(parts[:-3]), parts[-3:]
        if folder not in places:
            first, *others = found = patient_folders(root, parts)
            listed = reversed(found) if others else ()
            places[folder] = first, {name: place for place in listed for name in os.listdir(place)}
        first, homes = places[folder]
        return homes.get(below[0], first).joinpath(*below)

    return locate


def patient_folders(root: Path, parts: Sequence[str]) -> list[Path]:
    """The folders that hold the patients of a table's row, whose path has the given parts: one, or all batches.

    The path is tried as it stands and then, without the download's name that it starts with, below each
    folder that a download may have; `valid` is also sought as `val`, CheXlocalize's name for it. The first
    place that has the image wins, else the first that is a folder at all, else the path as it stands. Only
    the full-size download is in several places: each patient is in one of them.
    """
    *above, split = parts[:-3] or ("",)
    splits = {"valid": ("valid", "val"), "val": ("val", "valid")}.get(split, (split,))
    single = [root.joinpath(*above, split)] + [root / folder / name for folder in _IMAGES for name in splits]
    # os.path: pathlib's is_file and is_dir raise for a name that is too long.
    batches = [next((b / name for name in splits if os.path.isdir(b / name)), b) for b in _batches(root)]
    for place in (*single, *batches):
        if os.path.isfile(place.joinpath(*parts[-3:])):
            return batches if place in batches else [place]
    return [place for place in single if os.path.isdir(place)][:1] or batches or single[:1]


def _batches(root: Path) -> list[Path]:
    return [folder for pattern in _BATCHES for folder in sorted(root.glob(pattern)) if folder.is_dir()]


def _first(root: Path, folders: Iterable[str | Path], names: Iterable[str]) -> Path | None:
    places = (root / folder / name for name in names for folder in folders)
    return next((place for place in places if place.is_file()), None)
