"""Predict radiographs and write the files that `--save` names, image by image.

A record of each finished image lies in `OUT/.predict`. A killed call is continued from them, and a later call adds to
them. The network takes one image on each device at a time: its result then depends on no other image, so a continued
call ends with the bytes of an uninterrupted one.

An image's record lists its files and is written before they appear, so whatever no record lists is the user's.
"""

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np

from chexseg_jax.artifact import config_digest
from chexseg_jax.data.images import Frame, fit_image, read_radiograph
from chexseg_jax.data.reference import UPRIGHT
from chexseg_jax.errors import DiskError, InputError, PartlyDoneError
from chexseg_jax.files import PREDICTED, Lock, damaged, make_folder, remove_asides, written_aside
from chexseg_jax.predict.inputs import is_dicom, naming_long_ids
from chexseg_jax.predict.masks import threshold_map
from chexseg_jax.predict.overlay import SIDE
from chexseg_jax.predict.savers import SAVERS, TABLES, Prediction, Radiograph, files_of
from chexseg_jax.progress import say, track
from chexseg_jax.saved_model import Restored

DEFAULT = ("json", "overlays", "csv")
#: Raised when the same image and model give other files.
_VERSION = 1


def predict(
    model: Restored,
    images: Mapping[str, Path],
    out: Path,
    *,
    save: Sequence[str] = DEFAULT,
    threshold: float | None = None,
    overlays: int | None = None,
) -> None:
    """Write `out/segmentations.json`, `out/ID.png` and whatever else `save` names; add to what `out` has.

    An image is predicted again only if its file, the model, the threshold or `save` asks for it.

    Args:
      model: a segmentation with thresholds.
      images: id -> file.
      out: the folder, created if missing.
      save: names in `SAVERS` and `TABLES`.
      threshold: of all tasks; None for the model's own.
      overlays: the number of images, from the first, that get one; None for all.

    Raises:
      InputError: if nothing could be done: no image is readable, another call writes into `out`, or `out` holds
        predictions of other tasks, or a file of the user's that would be replaced.
      PartlyDoneError: if some images could not be predicted; all others are.
    """
    fresh = not out.exists()
    make_folder(out, "--out")
    lock = Lock(out / PREDICTED / "lock")
    if not lock.acquire():
        raise InputError(f"--out {out}: another call is writing into it; wait for it, or give another folder")
    call = _Call(model, out, save, threshold)
    try:
        drawn = len(images) if overlays is None else overlays
        call.check_files(images, drawn)
        call.run(images, drawn)
    finally:
        lock.release()
        shutil.rmtree(call.part, ignore_errors=True)
        if not any(call.finished.glob("*")):
            shutil.rmtree(call.finished.parent)
            if fresh:
                with contextlib.suppress(OSError):
                    out.rmdir()


@dataclass
class _Call:
    """One call of the command."""

    model: Restored
    out: Path
    save: Sequence[str]
    threshold: float | None
    changes: Counter[str] = field(default_factory=Counter)
    failures: list[InputError] = field(default_factory=list)
    reused: int = 0
    replaced: int = 0

    def __post_init__(self):
        self.finished, self.part = (self.out / PREDICTED / name for name in ("finished", "part"))
        own = self.model.thresholds
        self.thresholds = {task: own[task] if self.threshold is None else self.threshold for task in own}
        network = model_digest(self.model)
        origin = "phantom-trained " if self.model.provenance.synthetic else ""
        self.title = f"{origin}{self.model.config.name} {network}"
        self.settings = config_digest({"version": _VERSION, "model": network, "thresholds": self.thresholds})

    def savers(self, number: int, overlays: int) -> list[str]:
        """What writes the files of an image, by its number."""
        return [s for s in SAVERS if s in self.save and (s != "overlays" or number < overlays)]

    def check_files(self, images: Mapping[str, Path], overlays: int) -> None:
        """Refuse to replace what no earlier call has written, and tables that cannot be merged."""
        tasks = self.model.taxonomy.tasks
        tables = {table.file: table.earlier(self.out, self.model.taxonomy) for table in TABLES.values()}
        for record in self.records():
            if record["codes"].keys() != {*tasks}:
                raise InputError(
                    f"--out {self.out}: holds the prediction of {record['name']} with other tasks; give another folder"
                )
        for number, name in enumerate(images):
            wanted = chain.from_iterable(files_of(s, name, tasks) for s in self.savers(number, overlays))
            present = [file for file in wanted if os.path.lexists(self.out / file)]
            present += [file for file, earlier in tables.items() if name in earlier]
            path = self.finished / f"{name}.json"
            record = self.record(path) if present else None
            if record is None and os.path.lexists(path):  # damaged: the image is predicted again
                continue
            own = {*tables, *chain.from_iterable(record["files"].values())} if record else set()
            if foreign := [file for file in present if file not in own]:
                raise InputError(
                    f"{self.out / foreign[0]}: the prediction of {name} would replace it, but no earlier call has "
                    "written it; move it, or give another --out"
                )

    def run(self, images: Mapping[str, Path], overlays: int) -> None:
        """Predict what is not finished, write the tables, and say what happened."""
        self.remove_unfinished()
        batch: list[tuple[Radiograph, list[str]]] = []
        for number, name in enumerate(track(images, "predicting images", len(images))):
            with self.noting_failure(images[name]):
                if found := self.read(name, images[name], self.savers(number, overlays)):
                    batch.append(found)
            if batch and (len(batch) == jax.local_device_count() or number == len(images) - 1):
                self.finish(batch)
                batch = []
        if len(self.failures) == len(images) == 1:
            raise self.failures[0]
        if len(self.failures) == len(images):
            self.name_failures()
            raise InputError(f"none of {len(images)} images could be predicted; they are named above")
        for key, table in TABLES.items():
            if key in self.save or (self.out / table.file).exists():
                table.merge(self.out, self.records(), self.model.taxonomy)
        self.report(images)

    def remove_unfinished(self) -> None:
        """Delete what a killed call left half-written."""
        shutil.rmtree(self.part, ignore_errors=True)
        remove_asides(self.finished)
        for table in TABLES.values():
            for aside in self.out.glob(f".{table.file}.*.part"):
                aside.unlink()

    def read(self, name: str, file: Path, savers: list[str]) -> tuple[Radiograph, list[str]] | None:
        """Read an image, with what writes its files; None if it is finished.

        One that is predicted again has all its files made anew.
        """
        record = self.record(self.finished / f"{name}.json")
        if record:
            files = record["files"]
            known = record["settings"] == self.settings and record["image"]
            made = files.keys() >= {*savers} and all(
                (self.out / path).exists() for paths in files.values() for path in paths
            )
            if made and known and damaged(file.parent, {file.name: known}) is None:
                self.reused += 1
                return None
            savers = [saver for saver in SAVERS if saver in savers or saver in files]
        try:
            image = read_radiograph(file)
        except InputError as error:
            if not record:
                raise
            raise InputError(
                f"{error}; {self.out} keeps the prediction of what the file was before"
            ) from None
        if record and (record["settings"] != self.settings or record["image"] != image.sha256):
            self.replaced += 1
        self.changes.update(image.changes)
        height, width = image.grey.shape
        picture = fit_image(image.grey, SIDE)[Frame(height, width, SIDE).window]
        fitted = fit_image(image.grey, self.model.config.size)
        checks = self.model.reference.check(image.grey)
        size = height, width
        return Radiograph(name, file, image.sha256, size, image.spacing, fitted, picture, checks), savers

    def finish(self, batch: Sequence[tuple[Radiograph, list[str]]]) -> None:
        """Predict images, and write their files and records."""
        probabilities = self.model.predict([image.fitted for image, _ in batch], batch_size=len(batch))
        for (image, savers), square in zip(batch, probabilities, strict=True):
            maps = square[Frame(*image.size, len(square)).window]
            codes = {
                task: threshold_map(maps[..., k], image.size, self.thresholds[task])
                for k, task in enumerate(self.model.taxonomy.tasks)
            }
            prediction = Prediction(image, maps, self.thresholds, codes, self.model.taxonomy, self.title)
            with self.noting_failure(image.source):
                shutil.rmtree(self.part, ignore_errors=True)
                record = {
                    "name": image.name,
                    "image": image.sha256,
                    "settings": self.settings,
                    "files": {saver: self.write(saver, prediction) for saver in savers},
                    "codes": codes,
                    "rows": prediction.rows(),
                }
                self.keep(record)

    def write(self, saver: str, prediction: Prediction) -> list[str]:
        """Write files of one image aside; return their names."""
        names = files_of(saver, prediction.image.name, prediction.taxonomy.tasks)
        files = [self.part / name for name in names]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
        SAVERS[saver](files, prediction)
        return [name for name, file in zip(names, files, strict=True) if file.exists()]

    def keep(self, record: Mapping[str, Any]) -> None:
        """Replace the record and files of one image. After a kill in between, files are missing: it is not finished."""
        path = self.finished / f"{record['name']}.json"
        for name in chain.from_iterable((self.record(path) or {"files": {}})["files"].values()):
            (self.out / name).unlink(missing_ok=True)
        with written_aside(path) as file:
            json.dump(record, file)
        for name in chain.from_iterable(record["files"].values()):
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.part / name).replace(self.out / name)

    def name_failures(self) -> None:
        """Say of each image that was not predicted why."""
        for error in self.failures:
            say(f"not predicted: {error}")

    @contextlib.contextmanager
    def noting_failure(self, file: Path) -> Iterator[None]:
        """Go on after an error of one image, which is named at the end."""
        try:
            with naming_long_ids(file):
                yield
        except DiskError:
            raise
        except InputError as error:
            self.failures.append(error)

    def record(self, file: Path) -> dict[str, Any] | None:
        """The record of a finished image; None if there is none."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(file.read_text(encoding="utf-8"))
        return None

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of all images, of earlier calls too."""
        return filter(None, map(self.record, sorted(self.finished.glob("*.json"))))

    def report(self, images: Mapping[str, Path]) -> None:
        """Say what was done, and name what was not.

        Raises:
          PartlyDoneError: if some images were not predicted.
        """
        done, earlier = len(images) - len(self.failures), Counter[str]()
        verdicts: dict[str, list[str]] = {}
        for record in self.records():
            if record["name"] in images and (verdict := record["rows"][0]["check"]) != "ok":
                verdicts.setdefault(verdict, []).append(record["name"])
            if record["name"] not in images:
                earlier["all"] += 1
                earlier["other"] += record["settings"] != self.settings
        for change, times in self.changes.items():
            say(f"{times} of {len(images)} images {change}")
        plain = sum(not is_dicom(file) for file in images.values()) if "dicomseg" in self.save else 0
        for count, what in (
            (plain, "are no DICOM and have no DICOM-SEG"),
            (self.reused, "were finished before and are reused"),
            (self.replaced, "were predicted again: their file, the model or the threshold has changed"),
        ):
            if count:
                say(f"{count} of {len(images)} images {what}")
        unlike = "no upright chest radiographs"
        if self.model.reference is not UPRIGHT:
            unlike = "unlike the images that the model was trained on"
        for verdict, names in verdicts.items():
            looks = unlike if verdict == "unlike" else verdict
            few = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
            say(f"{len(names)} of {len(images)} images are probably {looks}; their masks mean little: {few}")
        if earlier["all"]:
            of = f", {earlier['other']} of them of another model or threshold" if earlier["other"] else ""
            say(f"{self.out} keeps {earlier['all']} other images of earlier calls{of}")
        self.name_failures()
        say(f"{done} of {len(images)} images: {self.out}")
        if self.failures:
            raise PartlyDoneError(
                f"{len(self.failures)} of {len(images)} images were not predicted; they are named above"
            )


def model_digest(model: Restored) -> str:
    """Twelve hexadecimal digits that change with any weight or setting of a model."""
    weights = jax.tree.map(np.asarray, dict(model.variables))
    reference = asdict(model.reference)
    return config_digest(
        {"config": model.config, "tasks": model.tasks, "weights": weights, "reference": reference}
    )
