"""Where the studies come from: a user's download, or the phantom made in the work directory."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from chexseg_jax import phantom
from chexseg_jax.artifact import artifact
from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import Segmentations, read_segmentations
from chexseg_jax.data.layout import check_layout
from chexseg_jax.progress import say
from chexseg_jax.stages.prepare import Split


@dataclass(frozen=True)
class Sources:
    """The three splits and what is known about them.

    Attributes:
      train: weak labels only.
      valid, test: with radiologists' masks.
      second_reader: another radiologist's masks of the test images, where there are any.
      is_phantom: whether the images are synthetic.
      root: the folder they are in.
    """

    train: Split
    valid: Split
    test: Split
    second_reader: Segmentations | None
    is_phantom: bool
    root: Path

    @property
    def reader_note(self) -> str:
        """What to know of a second reader who did not read all; "" where there is nothing."""
        truth, reader = self.test.segmentations, self.second_reader
        unread = [image_id for image_id in truth.ids if image_id not in reader] if truth and reader else []
        if not unread:
            return ""
        return (
            f"{len(unread)} of the {len(truth)} test images with masks are not in {reader.path.name} "
            f"({', '.join(unread[:3])}{', ...' * (len(unread) > 3)}): the second reader's masks of these count as "
            "empty, and a gap to that reader is not one to a radiologist who read all."
        )


def open_sources(store: Path, config: ConfigDict) -> Sources:
    """Opens `config.root`, its layout checked up front, or makes the phantom where no root is set.

    Args:
      store: the folder of artifacts.
      config: `root` (a folder, or "" for the phantom) and `phantom` (what `phantom.make` takes).

    Raises:
      InputError: listing everything that is missing under root, or naming a file or row that is wrong.
    """
    root = Path(config.root).expanduser()  # behind a colon the shell leaves the tilde
    if not config.root:
        key = {"config": config.phantom, "version": phantom.VERSION}

        def make(part: Path) -> None:
            shutil.rmtree(part)  # with what a kill left
            part.mkdir()
            phantom.make(part / "data", **config.phantom.to_dict())

        root = artifact(store, "phantom", key, make) / "data"
    layout = check_layout(root)
    reader = read_segmentations(layout.second_reader) if layout.second_reader else None
    splits = {
        name: _open(
            name,
            table,
            layout.segmentations.get(name),
            root,
            layout.second_reader if name == "test" else None,
        )
        for name, table in layout.tables.items()
    }
    truth = splits["test"].segmentations
    for image_id in reader.ids if reader else ():
        if image_id in truth:
            reader.check_size(image_id, truth.size(image_id), truth.path)
    sources = Sources(
        **splits,
        second_reader=reader,
        is_phantom=not config.root or (root / phantom.MARKER).exists(),
        root=root,
    )
    if sources.reader_note:
        say(sources.reader_note)
    return sources


def _open(name: str, table: Path, masks: Path | None, root: Path, reader: Path | None) -> Split:
    studies = chexpert.read_labels(table, root=root)
    segmentations = read_segmentations(masks) if masks else None
    say(f"{name}: {len(studies)} images{f', {len(segmentations)} with masks' if masks else ''}")
    tables = [file for file in (table, masks, reader) if file]
    return Split(name, studies, segmentations, fingerprint(tables, studies.paths))


def fingerprint(tables: Iterable[Path], images: Iterable[Path]) -> str:
    """Sixteen hexadecimal digits that change with the tables, and with the size in bytes of any image.

    Reading every image would take as long as preparing them; a folder may move, so neither its name nor times count.
    """
    digest = hashlib.sha256()
    for table in tables:
        digest.update(table.read_bytes())
    with ThreadPoolExecutor(16) as pool:  # on a network's file system each of these is a wait
        digest.update(repr(list(pool.map(_bytes, images))).encode())
    return digest.hexdigest()[:16]


def _bytes(image: Path) -> int:
    try:
        return os.stat(image).st_size
    except OSError:  # missing: `prepare` counts it, and reads it once it is there
        return -1
