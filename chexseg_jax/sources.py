"""The data of a run: a user's download, or the phantom, made in the work directory."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from chexseg_jax import phantom
from chexseg_jax.artifact import Store
from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import Segmentations, read_segmentations
from chexseg_jax.data.layout import check_layout
from chexseg_jax.data.provenance import Provenance
from chexseg_jax.data.split import Split
from chexseg_jax.data.taxonomy import CHEXPERT, FILE, Taxonomy, read_taxonomy
from chexseg_jax.files import expand_home
from chexseg_jax.progress import say

PHANTOM_NOTE = (
    "**These are results on the phantom: synthetic images drawn by this package. They say whether the method "
    "works as built, and nothing about patients.**"
)


@dataclass(frozen=True)
class Sources:
    """The three splits and their origin.

    Attributes:
      train: weak labels only.
      valid, test: with radiologists' masks; classifiers and MoCo also take valid without masks, and no test.
      taxonomy: labels and tasks.
      is_phantom: whether the images are synthetic.
      root: their folder.
    """

    train: Split
    valid: Split
    test: Split | None
    taxonomy: Taxonomy
    is_phantom: bool
    root: Path

    @property
    def second_reader(self) -> Segmentations | None:
        """Another radiologist's masks of the test images, if any."""
        return self.test.second_reader if self.test else None

    @property
    def title(self) -> str:
        """The data's name above pictures and beside scores; a phantom is called one."""
        return "phantom: synthetic images, not patients" if self.is_phantom else self.root.resolve().name

    @property
    def note(self) -> str:
        """The data's description for a report."""
        return PHANTOM_NOTE if self.is_phantom else f"Data: `{self.root}`."

    def provenance(self, config: ConfigDict) -> Provenance:
        """The record of these data in a model; `config` has their `views` and `uncertainty`."""
        licence = "Apache-2.0, as the package that drew it" if self.is_phantom else "the terms of its data"
        return Provenance(self.title, self.is_phantom, config.views, config.uncertainty, licence)

    @property
    def reader_note(self) -> str:
        """A caution about a second reader who read only some of the test images or tasks; "" otherwise."""
        reader = self.second_reader
        truth = self.test.segmentations if reader is not None else None
        if not truth:
            return ""
        unread = [image_id for image_id in truth.ids if image_id not in reader]
        read = [image_id for image_id in truth.ids if image_id in reader]
        pairs = sum(int((truth.known(image_id) & ~reader.known(image_id)).sum()) for image_id in read)
        count = "count as empty" if self.taxonomy.missing == "empty" else "are unknown and left out"
        file, lacking = reader.path.name, []
        if unread:
            some = f"{', '.join(unread[:3])}{', ...' * (len(unread) > 3)}"
            lacking.append(
                f"{len(unread)} of the {len(truth)} test images with masks are not in {file} ({some})"
            )
        if pairs:
            lacking.append(f"{pairs} pairs of image and task are not in {file}")
        if not lacking:
            return ""
        return (
            f"{' and '.join(lacking)}: the second reader's masks of these {count}, so this reader's scores are not "
            "those of a radiologist who read everything."
        )


def open_sources(store: Store, config: ConfigDict, *, labels_alone: bool = False) -> Sources:
    """Open `config.root`, with its layout checked first, or make the phantom if no root is set.

    A store for planning makes none: the splits of a phantom that does not exist yet have names and no images.

    Args:
      store: of artifacts.
      config: `root` (a folder, or "" for the phantom) and `phantom` (the arguments of `phantom.make`).
      labels_alone: see `check_layout`.

    Raises:
      InputError: listing everything that is missing under root, or naming a file or row that is wrong.
    """
    root = expand_home(config.root)
    if not config.root:
        root = store.make("phantom", make_phantom, version=phantom.VERSION, config=config.phantom) / "data"
        if store.planning and not root.is_dir():  # still to be made: nothing to read
            nobody = chexpert.Studies(
                (), (), np.zeros((0, len(CHEXPERT.labels)), np.float32), np.zeros(0, bool)
            )
            empty = {name: Split(name, nobody, None, None, "") for name in ("train", "valid", "test")}
            return Sources(**empty, taxonomy=CHEXPERT, is_phantom=True, root=root)
    layout, taxonomy = check_layout(root, labels_alone=labels_alone), read_taxonomy(root)
    if (root / FILE).exists():
        say(f"{root / FILE}: {len(taxonomy.tasks)} tasks: {', '.join(taxonomy.tasks)}")
    splits = {}
    for name, table in layout.tables.items():
        files = [table, layout.segmentations.get(name), layout.second_reader if name == "test" else None]
        splits[name] = _open_split(name, files, root, taxonomy)
    test = splits.setdefault("test", None)
    if test is None:
        say("no test_labels.csv: checkpoints are chosen on valid, and nothing is scored on other images")
    truth, reader = (test.segmentations, test.second_reader) if test else (None, None)
    for image_id in reader.ids if truth and reader is not None else ():
        if image_id in truth:
            reader.check_size(image_id, truth.size(image_id), truth.path)
    is_phantom = not config.root or (root / phantom.MARKER).exists()
    sources = Sources(**splits, taxonomy=taxonomy, is_phantom=is_phantom, root=root)
    if sources.reader_note:
        say(sources.reader_note)
    return sources


def make_phantom(part: Path, *, config: ConfigDict) -> None:
    """Write a phantom into `part/data`, from the start if a killed call left one unfinished."""
    shutil.rmtree(part)
    part.mkdir()
    phantom.make(part / "data", **config.to_dict())


def _open_split(name: str, files: list[Path | None], root: Path, taxonomy: Taxonomy) -> Split:
    table, masks, reader = files
    studies = chexpert.read_labels(table, root=root, taxonomy=taxonomy)
    segmentations, second_reader = (read_segmentations(f, taxonomy) if f else None for f in (masks, reader))
    say(f"{name}: {len(studies)} images{f', {len(segmentations)} with masks' if segmentations else ''}")
    tasks = root / FILE
    read = [file for file in (*files, tasks if tasks.exists() else None) if file]
    return Split(name, studies, segmentations, second_reader, fingerprint(read, studies.paths))


def fingerprint(files: Iterable[Path], images: Iterable[Path]) -> str:
    """Sixteen hexadecimal digits that change with the files' content, and with the size in bytes of any image.

    Reading every image would take as long as preparing them. A folder may move, so names and times do not count.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    with ThreadPoolExecutor(16) as pool:  # each of these is a wait on a network file system
        digest.update(repr(list(pool.map(_bytes, images))).encode())
    return digest.hexdigest()[:16]


def _bytes(image: Path) -> Any:
    try:
        return os.stat(image).st_size
    except OSError:  # a missing image: `prepare` counts it
        return -1
