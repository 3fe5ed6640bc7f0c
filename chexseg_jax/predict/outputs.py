"""Predict radiographs and write the files that `--save` names, image by image.

A record of each finished image lies in `OUT/.predict`. A killed call is continued from them, and a later call adds to
them. The network takes one image on each device at a time: its result then depends on no other image, so a continued
call ends with the bytes of an uninterrupted one.
"""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from chexseg_jax.artifact import config_digest
from chexseg_jax.data.images import Frame, fit_image, read_radiograph
from chexseg_jax.data.reference import UPRIGHT, Checks
from chexseg_jax.errors import DiskError, InputError, PartlyDoneError
from chexseg_jax.files import Lock, damaged, make_folder, remove_asides, written_aside
from chexseg_jax.predict.inputs import is_dicom
from chexseg_jax.predict.masks import threshold_map
from chexseg_jax.predict.overlay import SIDE
from chexseg_jax.predict.savers import SAVERS, TABLES, Prediction
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
        predictions of other tasks.
      PartlyDoneError: if some images could not be predicted; all others are.
    """
    fresh = not out.exists()
    make_folder(out, "--out")
    lock = Lock(out / ".predict" / "lock")
    if not lock.acquire():
        raise InputError(f"--out {out}: another call is writing into it; wait for it, or give another folder")
    call = _Call(model, out, save, threshold)
    try:
        for table in TABLES.values():
            table.earlier(out, model.taxonomy)  # what cannot be merged is refused now
        call.run(images, len(images) if overlays is None else overlays)
    finally:
        lock.release()
        shutil.rmtree(call.part, ignore_errors=True)
        if not any(call.finished.glob("*")):
            shutil.rmtree(call.finished.parent)
            if fresh:
                with contextlib.suppress(OSError):
                    out.rmdir()


class _Read(NamedTuple):
    """An image as the network and the overlay need it; its full size is not kept."""

    name: str
    source: Path
    sha256: str
    size: tuple[int, int]
    spacing: tuple[float, float] | None
    fitted: UInt8[np.ndarray, "S S"]
    picture: UInt8[np.ndarray, "h w"]
    checks: Checks
    savers: list[str]


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
        self.finished, self.part = (self.out / ".predict" / name for name in ("finished", "part"))
        own = self.model.thresholds
        self.thresholds = {task: own[task] if self.threshold is None else self.threshold for task in own}
        network = model_digest(self.model)
        origin = "phantom-trained " if self.model.provenance.synthetic else ""
        self.title = f"{origin}{self.model.config.name} {network}"
        self.settings = config_digest({"version": _VERSION, "model": network, "thresholds": self.thresholds})

    def run(self, images: Mapping[str, Path], overlays: int) -> None:
        """Predict what is not finished, write the tables, and say what happened."""
        self.remove_unfinished()
        batch: list[_Read] = []
        for number, name in enumerate(track(images, "predicting images", len(images))):
            savers = [s for s in SAVERS if s in self.save and (s != "overlays" or number < overlays)]
            with self.noting_failure():
                if image := self.read(name, images[name], savers):
                    batch.append(image)
            if batch and (len(batch) == jax.local_device_count() or number == len(images) - 1):
                self.finish(batch)
                batch = []
        if len(self.failures) == len(images):
            raise InputError(
                f"none of {len(images)} images could be predicted; the first: {self.failures[0]}"
                if len(images) > 1
                else str(self.failures[0])
            )
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

    def read(self, name: str, file: Path, savers: list[str]) -> _Read | None:
        """Read an image; None if it is finished. One that is predicted again has all its files made anew."""
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
        image = read_radiograph(file)
        if record and (record["settings"] != self.settings or record["image"] != image.sha256):
            self.replaced += 1
        self.changes.update(image.changes)
        height, width = image.grey.shape
        picture = fit_image(image.grey, SIDE)[Frame(height, width, SIDE).window]
        fitted = fit_image(image.grey, self.model.config.size)
        checks = self.model.reference.check(image.grey)
        return _Read(
            name, file, image.sha256, (height, width), image.spacing, fitted, picture, checks, savers
        )

    def finish(self, batch: Sequence[_Read]) -> None:
        """Predict images, and write their files and records."""
        probabilities = self.model.predict([image.fitted for image in batch], batch_size=len(batch))
        for image, square in zip(batch, probabilities, strict=True):
            maps = square[Frame(*image.size, len(square)).window]
            codes = {
                task: threshold_map(maps[..., k], image.size, self.thresholds[task])
                for k, task in enumerate(self.model.taxonomy.tasks)
            }
            prediction = Prediction(
                image.name,
                image.source,
                image.size,
                image.spacing,
                image.picture,
                image.checks,
                maps,
                self.thresholds,
                codes,
                self.model.taxonomy,
                self.title,
            )
            with self.noting_failure():
                files = {saver: self.write(saver, prediction) for saver in image.savers}
                record = {
                    "name": image.name,
                    "image": image.sha256,
                    "settings": self.settings,
                    "files": files,
                    "codes": codes,
                    "rows": prediction.rows(),
                }
                with written_aside(self.finished / f"{image.name}.json") as file:
                    json.dump(record, file)

    def write(self, saver: str, prediction: Prediction) -> list[str]:
        """Write the files of one image aside and rename them into `out`; return their names there."""
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir()
        SAVERS[saver](self.part, prediction)
        names = sorted(str(file.relative_to(self.part)) for file in self.part.rglob("*") if file.is_file())
        for name in names:
            (self.out / name).parent.mkdir(parents=True, exist_ok=True)
            (self.part / name).replace(self.out / name)
        return names

    @contextlib.contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Go on after an error of one image, which is named at the end."""
        try:
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
        for error in self.failures:
            say(f"not predicted: {error}")
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
