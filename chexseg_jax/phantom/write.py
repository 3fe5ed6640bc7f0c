"""A phantom on disk: CheXpert's and CheXlocalize's two layouts, told apart from a real download by `PHANTOM.md`."""

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress

from chexseg_jax.data.chexlocalize import Rle, encode, write_annotations, write_segmentations
from chexseg_jax.data.chexpert import COLUMNS, TEST_COLUMNS, write_labels
from chexseg_jax.errors import InputError
from chexseg_jax.phantom.contours import Polygon, trace
from chexseg_jax.phantom.labels import mined_labels, true_labels
from chexseg_jax.phantom.plan import Shot, plan_splits
from chexseg_jax.phantom.reader import second_reading
from chexseg_jax.phantom.render import View, render

#: Goes up whenever the same seed no longer means the same bytes.
VERSION = 5

#: Says that a tree is a phantom, and a finished one.
MARKER = "PHANTOM.md"

#: CheXlocalize's file names speak of `val`.
_FILE_SPLIT = {"valid": "val", "test": "test"}


@dataclass(frozen=True)
class _Made:
    """What a worker hands back for an image: everything but the JPEG, which it has written."""

    id: str
    size: tuple[int, int]
    masks: dict[str, Rle]
    polygons: dict[str, list[Polygon]]
    reading: dict[str, Rle]


def make(
    out: str | Path,
    *,
    train: int,
    valid: int,
    test: int,
    size: int = 320,
    seed: int = 0,
    conspicuity: float = 1.0,
    processes: int | None = None,
    progress: bool = False,
) -> Path:
    """Writes a phantom: synthetic radiographs in CheXpert's and CheXlocalize's layouts.

    The tree appears only when it is finished; a finished phantom in its place is replaced.

    Args:
      out: the root: holds `CheXpert-v1.0-small/`, `train.csv`, `valid.csv`, `test_labels.csv`, `gt_*.json`,
        `hb_segmentations_test.json`, and what no download has, `phantom_train_masks.json` and `PHANTOM.md`.
      train: number of training images.
      valid: of validation images.
      test: of test images.
      size: pixels of the short side.
      seed: same seed, same bytes, whatever the number of processes.
      conspicuity: factor on what findings add to the attenuation (hearts and mediastina: on how much they widen).
        Below 1 the tasks get harder.
      processes: worker processes, by default one a core.
      progress: show a progress bar.

    Raises:
      InputError: for numbers out of range, or where `out` holds something that is no phantom.
    """
    out = Path(out).resolve()  # "." and links name no folder that another can take the place of
    if processes is not None and processes < 1:
        raise InputError(f"processes={processes}: begins at 1")
    images = {"train": train, "valid": valid, "test": test}
    _check(out, images, size, seed, conspicuity)
    shots = plan_splits(images, seed)
    with _aside(out) as root:
        for folder in {(root / shot.path).parent for shot in shots}:
            folder.mkdir(parents=True, exist_ok=True)
        work = partial(_make_image, root, size, seed, conspicuity)
        made = dict(zip(shots, _over_processes(work, shots, processes, progress), strict=True))
        _write_tables(root, shots, seed)
        _write_masks(root, made)
        (root / MARKER).write_text(_note(train, valid, test, size, seed, conspicuity))
    return out


def _make_image(root: Path, size: int, seed: int, conspicuity: float, shot: Shot) -> _Made:
    """Draws and writes one image. Runs in a worker; depends on nothing but its arguments."""
    view = View(
        seed=seed,
        patient=shot.patient,
        study=shot.study,
        number=shot.view,
        lateral=shot.lateral,
        ap=shot.ap,
        findings=shot.findings,
        size=size,
        conspicuity=conspicuity,
    )
    drawn = render(view)
    Image.fromarray(drawn.image).save(root / shot.path, quality=90)
    present = {task: mask for task, mask in drawn.masks.items() if mask.any()}
    reading = second_reading(view, drawn.scene, drawn.masks) if shot.split == "test" else {}
    return _Made(
        id=shot.id,
        size=drawn.image.shape,
        masks={task: encode(mask) for task, mask in drawn.masks.items()},
        polygons={task: trace(mask) for task, mask in present.items()} if shot.split != "train" else {},
        reading={task: encode(mask) for task, mask in reading.items()},
    )


def _over_processes(work, shots: Sequence[Shot], processes: int | None, progress: bool) -> Iterator[_Made]:
    """`work` on every shot, in order. Workers are spawned, not forked: the caller may have started JAX's threads."""
    processes = min(processes or os.cpu_count() or 1, max(1, len(shots) // 8))
    with Progress(disable=not progress) as bar:
        if processes == 1:
            yield from bar.track(map(work, shots), total=len(shots), description="phantom")
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            results = pool.map(work, shots, chunksize=4)
            yield from bar.track(results, total=len(shots), description="phantom")


def _write_tables(root: Path, shots: Sequence[Shot], seed: int) -> None:
    """train.csv with mined labels, valid.csv and test_labels.csv with true ones; a study's views share its labels."""
    for split, name in (("train", "train.csv"), ("valid", "valid.csv"), ("test", "test_labels.csv")):
        rows = [_row(shot, seed) for shot in shots if shot.split == split]
        write_labels(root / name, rows, columns=TEST_COLUMNS if split == "test" else COLUMNS)


def _row(shot: Shot, seed: int) -> dict:
    who = View(seed, shot.patient, 0, 0, False, False, (), 0).who()
    rng = np.random.default_rng([seed, shot.patient, 5, shot.study])
    labels = true_labels(shot.present, rng)
    if shot.split == "train":
        labels = mined_labels(labels, rng)
    return {
        "Path": shot.path,
        "Sex": who.sex,
        "Age": who.age,
        "Frontal/Lateral": "Lateral" if shot.lateral else "Frontal",
        "AP/PA": None if shot.lateral else "AP" if shot.ap else "PA",
        **labels,
    }


def _write_masks(root: Path, made: dict[Shot, _Made]) -> None:
    def of(split: str) -> list[_Made]:
        return [image for shot, image in made.items() if shot.split == split]

    for split, name in _FILE_SPLIT.items():
        write_segmentations(root / f"gt_segmentations_{name}.json", ((m.id, m.masks) for m in of(split)))
        write_annotations(
            root / f"gt_annotations_{name}.json", {m.id: (*m.size, m.polygons) for m in of(split)}
        )
    write_segmentations(root / "hb_segmentations_test.json", ((m.id, m.reading) for m in of("test")))
    write_segmentations(root / "phantom_train_masks.json", ((m.id, m.masks) for m in of("train")))


def _check(out: Path, images: dict[str, int], size: int, seed: int, conspicuity: float) -> None:
    for split, n in images.items():
        if n < 1:
            raise InputError(f"{split}={n}: a phantom needs at least one image in each split")
    if not 64 <= size <= 2048:
        raise InputError(f"size={size}: the short side must have 64 to 2048 pixels")
    if seed < 0:
        raise InputError(f"seed={seed}: a seed is 0 or more")
    if not 0 < conspicuity <= 4:
        raise InputError(f"conspicuity={conspicuity}: must lie above 0 and not above 4 (1 is the default)")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give a directory for the phantom")
    if os.path.ismount(out):
        raise InputError(f"{out}: a mounted folder cannot be replaced; give one below it")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise InputError(
            f"{out}: holds something that is no phantom (no {MARKER}); give an empty or new directory"
        )


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A directory beside `out` that takes its place when all went well, and is removed otherwise."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from None
    root.chmod(0o755)
    try:
        yield root
        if out.exists():
            shutil.rmtree(out)
        root.rename(out)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


def _note(train: int, valid: int, test: int, size: int, seed: int, conspicuity: float) -> str:
    return f"""# A phantom: synthetic chest radiographs

Nothing here was taken of a person. These files were drawn by `chexseg_jax.phantom` (version {VERSION})
in the layouts of CheXpert and CheXlocalize, so that every command runs with nothing downloaded.
A result on them is a result on a phantom, and says nothing about radiographs of people.

| seed | version | train | valid | test | short side | conspicuity |
|---|---|---|---|---|---|---|
| {seed} | {VERSION} | {train} | {valid} | {test} | {size} px | {conspicuity:g} |

- `train.csv`: labels as a report labeller would mine them (uncertain, blank, some wrong). `valid.csv` and
  `test_labels.csv`: the truth. Pleural Other and Fracture are not drawn: in train.csv they are label noise.
- `gt_segmentations_*.json`, `gt_annotations_*.json`: exact masks and their outlines.
- `hb_segmentations_test.json`: a simulated second reader.
- `phantom_train_masks.json`: exact masks of the training images. No download has these: only for judging
  pseudo-masks, never for training.
"""
