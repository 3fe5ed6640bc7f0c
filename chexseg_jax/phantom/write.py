"""Write a phantom to disk in the layouts of CheXpert and CheXlocalize; `PHANTOM.md` marks it as one."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from chexseg_jax.data.chexlocalize import Rle, encode, write_annotations, write_segmentations
from chexseg_jax.data.chexpert import COLUMNS, TEST_COLUMNS, write_labels
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError, stop_signals
from chexseg_jax.files import new_folder
from chexseg_jax.phantom.contours import Polygon, trace
from chexseg_jax.phantom.labels import mined_labels, true_labels
from chexseg_jax.phantom.plan import plan_splits
from chexseg_jax.phantom.reader import second_reading
from chexseg_jax.phantom.render import render
from chexseg_jax.phantom.view import View
from chexseg_jax.progress import track

#: Increase it whenever the same arguments give other bytes.
VERSION = 6

#: Written last: marks a folder as a complete phantom.
MARKER = "PHANTOM.md"

#: All that a phantom's root holds.
_NAMES = {
    MARKER,
    "CheXpert-v1.0-small",
    *("train.csv", "valid.csv", "test_labels.csv"),
    *(f"gt_{kind}_{split}.json" for kind in ("segmentations", "annotations") for split in ("val", "test")),
    *("hb_segmentations_test.json", "phantom_train_masks.json"),
}


@dataclass(frozen=True)
class _Output:
    """What a worker returns for a view. It has written the JPEG."""

    view: View
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
) -> Path:
    """Write a phantom: synthetic chest radiographs in the layouts of CheXpert and CheXlocalize.

    `out` appears only when it is complete, and replaces an older phantom of that name.

    Args:
      out: the root; holds `CheXpert-v1.0-small/`, `train.csv`, `valid.csv`, `test_labels.csv`, `gt_*.json`,
        `hb_segmentations_test.json` and, unlike a download, `phantom_train_masks.json` and `PHANTOM.md`.
      train, valid, test: number of images in each split.
      size: short side in pixels.
      seed: the same seed gives the same bytes, for any number of processes.
      conspicuity: factor on the attenuation that findings add (hearts and mediastina: on their added width). Below 1
        the tasks get harder.
      processes: worker processes, by default one per core.

    Returns:
      The root, absolute.

    Raises:
      InputError: for a number out of range, or if `out` cannot be written or holds anything but a phantom.
    """
    out = Path(out).resolve()  # "." and links cannot be replaced under their own name
    images = {"train": train, "valid": valid, "test": test}
    _check(out, images, size, seed, conspicuity, processes)
    views = plan_splits(images, seed=seed, size=size, conspicuity=conspicuity)
    with new_folder(out, replacing=True) as root:
        outputs = _in_processes(partial(_make_image, root), views, processes)
        _write_tables(root, views)
        _write_masks(root, outputs)
        (root / MARKER).write_text(_note(images, size, seed, conspicuity))
    return out


def _make_image(root: Path, view: View) -> _Output:
    """Render and write one image, in a worker."""
    rendered = render(view)
    path = root / view.path
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rendered.image).save(path, quality=90)
    present = {task: mask for task, mask in rendered.masks.items() if mask.any()}
    reading = second_reading(view, rendered.scene, rendered.masks) if view.split == "test" else {}
    return _Output(
        view=view,
        size=rendered.image.shape,
        masks={task: encode(mask) for task, mask in rendered.masks.items()},
        polygons={task: trace(mask) for task, mask in present.items()} if view.split != "train" else {},
        reading={task: encode(mask) for task, mask in reading.items()},
    )


#: Signals to all processes that the parent handles, and no worker.
_FOR_PARENT = (signal.SIGINT, signal.SIGUSR1)


def _in_processes(
    work: Callable[[View], _Output], views: Sequence[View], processes: int | None
) -> list[_Output]:
    """Apply `work` to every view. Workers are spawned, since the caller may have started JAX's threads."""
    processes = min(processes or os.cpu_count() or 1, max(1, len(views) // 8))
    title = "drawing the phantom"
    if processes == 1:
        return list(track(map(work, views), title, len(views)))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_follow_parent)
    waiting: list[int] = []
    try:
        # An interrupted start would leave workers without their work, and they print a traceback. Workers start with
        # the signals blocked. That alone holds none back here: another thread can receive it for Python.
        with stop_signals(lambda number, _: waiting.append(number)):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_PARENT)
            results = pool.map(work, views, chunksize=4)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number in waiting:
            signal.raise_signal(number)
        return list(track(results, title, len(views)))
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """End this worker with its parent, even a killed one."""
    for number in _FOR_PARENT:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _write_tables(root: Path, views: Sequence[View]) -> None:
    """Write train.csv with mined labels, valid.csv and test_labels.csv with true ones."""
    for split, name in (("train", "train.csv"), ("valid", "valid.csv"), ("test", "test_labels.csv")):
        rows = [_row(view) for view in views if view.split == split]
        write_labels(root / name, rows, columns=TEST_COLUMNS if split == "test" else COLUMNS)


def _row(view: View) -> dict[str, Any]:
    """The table row of a view; all views of a study have the same labels."""
    patient = view.sample_patient()
    rng = view.rng(5, view.study)
    labels = true_labels(view.present, rng)
    if view.split == "train":
        labels = mined_labels(labels, rng)
    return {
        "Path": view.path,
        "Sex": patient.sex,
        "Age": patient.age,
        "Frontal/Lateral": "Lateral" if view.lateral else "Frontal",
        "AP/PA": None if view.lateral else "AP" if view.ap else "PA",
        **labels,
    }


def _write_masks(root: Path, outputs: Sequence[_Output]) -> None:
    """Write the mask files; those of valid and test list only the images with a true mask, as CheXlocalize does.

    Its second readers knew the true image labels and read the same images, so their file lists these too: some of its
    masks are empty, and what the phantom's reader claims on other images is not written.
    """
    train, valid, test = (
        {o.view.id: o for o in outputs if o.view.split == split and (split == "train" or o.polygons)}
        for split in ("train", "valid", "test")
    )

    def write(name: str, masks: dict[str, dict[str, Rle]]) -> None:
        write_segmentations(root / name, masks, CHEXPERT)

    write("phantom_train_masks.json", {i: output.masks for i, output in train.items()})
    write("hb_segmentations_test.json", {i: output.reading for i, output in test.items()})
    for name, split in (("val", valid), ("test", test)):
        write(f"gt_segmentations_{name}.json", {i: output.masks for i, output in split.items()})
        drawn = {i: (*output.size, output.polygons) for i, output in split.items()}
        write_annotations(root / f"gt_annotations_{name}.json", drawn, CHEXPERT)


def _check(
    out: Path, images: dict[str, int], size: int, seed: int, conspicuity: float, processes: int | None
) -> None:
    for split, count in images.items():
        if count < 1:
            raise InputError(f"{split}={count}: must be at least 1")
    if not 64 <= size <= 2048:
        raise InputError(f"size={size}: must be 64 to 2048 pixels")
    if seed < 0:
        raise InputError(f"seed={seed}: must be at least 0")
    if not 0 < conspicuity <= 4:
        raise InputError(f"conspicuity={conspicuity}: must be above 0 and at most 4")
    if processes is not None and processes < 1:
        raise InputError(f"processes={processes}: must be at least 1")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder for the phantom")
    if os.path.ismount(out):
        raise InputError(f"{out}: is a mount point, which cannot be replaced; name a folder below it")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise InputError(f"{out}: is not empty and not a phantom (no {MARKER}); name a new or empty folder")
    if foreign := sorted({path.name for path in out.glob("[!.]*")} - _NAMES):
        raise InputError(
            f"{out / foreign[0]}: is no part of the phantom, which would be replaced with all in it; move it, or name "
            "another folder"
        )


def _note(images: dict[str, int], size: int, seed: int, conspicuity: float) -> str:
    counts = " | ".join(str(count) for count in images.values())
    return f"""# A phantom: synthetic chest radiographs

These images show no person. `chexseg_jax.phantom` (version {VERSION}) drew them in the layouts of CheXpert and
CheXlocalize, so that every command runs without a download. A result on them is a result on a phantom and says
nothing about radiographs of people.

| seed | version | train | valid | test | short side | conspicuity |
|---|---|---|---|---|---|---|
| {seed} | {VERSION} | {counts} | {size} px | {conspicuity:g} |

- `train.csv`: labels as mined from reports: some uncertain, many blank, some wrong. `valid.csv` and
  `test_labels.csv`: the truth. Pleural Other and Fracture are never drawn; in `train.csv` they are label noise.
- `gt_segmentations_*.json`, `gt_annotations_*.json`: exact masks and their outlines, of the images with a finding.
- `hb_segmentations_test.json`: masks of a simulated second reader, of the same test images.
- `phantom_train_masks.json`: exact masks of the training images, which no download has. Use them only to judge
  pseudo-masks, never for training.
"""
