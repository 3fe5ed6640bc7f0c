"""CheXpert's tables of image labels, and the policy for uncertain and blank labels.

A label is 1, 0, -1 (the report is uncertain) or blank (not mentioned). Paths in the tables start with the name of the
download wherever the table lies, `CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`.

Source: Irvin et al., "CheXpert", AAAI 2019, https://stanfordmlgroup.github.io/competitions/chexpert/.
"""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from chexseg_jax.data.layout import image_id, locate_images
from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy
from chexseg_jax.data.text import csv_rows
from chexseg_jax.errors import InputError
from chexseg_jax.files import written_aside

#: Columns of the published train.csv and valid.csv besides the labels.
_META = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
COLUMNS: tuple[str, ...] = (*_META, *CHEXPERT.labels)

#: Columns of the official test_labels.csv, which has no patient data.
TEST_COLUMNS: tuple[str, ...] = ("Path", *CHEXPERT.labels)

#: The spellings in published tables; any other goes through `_value`, which is slower.
_VALUES = {"": math.nan, "1.0": 1.0, "0.0": 0.0, "-1.0": -1.0, "1": 1.0, "0": 0.0, "-1": -1.0}


@dataclass(frozen=True)
class Studies:
    """The rows of a table, one an image, in its order.

    Attributes:
      ids: unique, such as `patient64541_study1_view1_frontal`, as in CheXlocalize's files.
      paths: of the image files, below the given root; they need not exist.
      labels: 1, 0, -1 uncertain, nan blank, in the taxonomy's order.
      frontal: whether the view is frontal (else lateral).
      taxonomy: the labels.
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Float32[np.ndarray, "N L"]
    frontal: Bool[np.ndarray, " N"]
    taxonomy: Taxonomy = CHEXPERT

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each image: the part of the id before `_study`, such as `patient64541`.

        A `_study` in the name of the first folder of the table's path, `patient/study/view`, does not count. Where no
        other follows, that folder is the patient. A folder that all images share is not a patient's: each image then
        counts as its own patient.
        """
        folders = [path.parent.parent.name for path in self.paths]
        shared = len(set(folders)) == 1

        def patient(name: str, folder: str) -> str:
            before, study, _ = name.removeprefix(folder).partition("_study")
            return folder + before if study else name if shared else folder

        return tuple(map(patient, self.ids, folders))

    def take(self, rows: Sequence[int] | Int[np.ndarray, " M"] | Bool[np.ndarray, " N"]) -> "Studies":
        """Select rows: by number, in the given order, or by a mask, as in `studies.take(studies.frontal)`."""
        rows = np.arange(len(self))[np.asarray(rows) if len(rows) else slice(0)]
        return Studies(
            tuple(self.ids[i] for i in rows),
            tuple(self.paths[i] for i in rows),
            self.labels[rows],
            self.frontal[rows],
            self.taxonomy,
        )


def read_labels(csv_path: str | Path, *, root: str | Path, taxonomy: Taxonomy = CHEXPERT) -> Studies:
    """Read a CheXpert table: train.csv, valid.csv, or the official test_labels.csv (only Path and labels).

    A label's column may have the label's name or another one that the taxonomy knows (`Airspace Opacity` for
    `Lung Opacity`). Blank columns and rows at the end, as Excel leaves them, and paths with backslashes, as Windows
    writes them, are read. The view is that of `Frontal/Lateral`, or of the file's name where that column is missing.

    Args:
      csv_path: the table.
      root: the folder with the images: the one that paths in the table start from, the CheXpert folder itself, or the
        one that CheXlocalize was downloaded to (see `layout.patient_folders`).
      taxonomy: the labels.

    Raises:
      InputError: naming file, row and value, for a table that is missing, empty, not CSV or lacks a column, a label
        other than 1, 0, -1 and blank, an image listed twice, and a path that leaves the root.
    """
    csv_path, root = Path(csv_path), Path(root).absolute()
    ids: dict[str, int] = {}
    paths, labels, frontal = [], [], []
    locate = locate_images(root)
    rows = csv_rows(csv_path, "a CheXpert table")
    _, header = next(rows, (0, []))
    while header and not header[-1].strip():  # Excel's tail of commas
        header.pop()
    path_at, view_at, labels_at = _columns(header, csv_path, taxonomy)
    for number, row in rows:
        if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
            raise InputError(f"{csv_path}, row {number}: {len(row)} cells under {len(header)} columns")
        parts = _parts(row[path_at], csv_path, number)
        if (name := image_id(parts)) in ids:
            raise InputError(f"{csv_path}, row {number}: {name} is also in row {ids[name]}; keep one")
        ids[name] = number
        paths.append(locate(parts))
        frontal.append(_is_frontal(parts[-1] if view_at is None else row[view_at], csv_path, number))
        try:
            labels.append([_VALUES[row[at]] for at in labels_at])
        except KeyError:
            labels.append([_value(row[at], header[at], csv_path, number) for at in labels_at])
    if not ids:
        raise InputError(f"{csv_path}: no rows; expected one an image below the header")
    return Studies(tuple(ids), tuple(paths), np.array(labels, np.float32), np.array(frontal), taxonomy)


def write_labels(
    path: str | Path, rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str] = COLUMNS
) -> None:
    """Write a table as published: labels `1.0`, `0.0`, `-1.0` (uncertain) or blank (None or nan).

    Args:
      path: the file; it appears only when complete.
      rows: one mapping an image, with `Path` and any other of `columns`; further keys are ignored.
      columns: `COLUMNS`, or `TEST_COLUMNS` for the form of the official test_labels.csv.
    """

    def cell(column: str, value: Any) -> str:
        if value is None or value != value:  # nan is the one value that differs from itself
            return ""
        return str(value) if column in _META else f"{float(value):.1f}"

    with written_aside(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for row in rows:
            if "Path" not in row:
                raise ValueError(f"{path}: a row without Path: {dict(row)}")
            table.writerow([cell(column, row.get(column)) for column in columns])


def targets(
    labels: Float32[np.ndarray, "N L"],
    policy: str | Mapping[str, str] = "zeros",
    taxonomy: Taxonomy = CHEXPERT,
) -> tuple[Float32[np.ndarray, "N L"], Float32[np.ndarray, "N L"]]:
    """Targets in {0, 1} and weights in {0, 1} for training a classifier.

    A policy says what uncertain labels count as: `zeros`, `ones`, or `ignore` (weight 0). It may differ per label, and
    `blank` sets what labels that the report does not mention count as (0 by default, as in the CheXpert paper):
    `"zeros"`, `"zeros;Edema=ones;Atelectasis=ones"`, `"ignore;blank=ignore"`, or the same as a mapping with the first
    part under `default`. Ignored labels have target 0.

    Args:
      labels: 1, 0, -1 uncertain, nan blank.
      policy: as above.
      taxonomy: the labels.

    Raises:
      InputError: for an unknown rule or label in the policy.
    """
    rules = parse_policy(policy, taxonomy)
    uncertain = np.array([rules[label] for label in taxonomy.labels])
    blank, unsure = np.isnan(labels), labels == -1
    on = (labels == 1) | (unsure & (uncertain == "ones")) | (blank & (rules["blank"] == "ones"))
    off = (unsure & (uncertain == "ignore")) | (blank & (rules["blank"] == "ignore"))
    return on.astype(np.float32), (~off).astype(np.float32)


def task_targets(
    labels: Float32[np.ndarray, "N L"], policy: str | Mapping[str, str], taxonomy: Taxonomy
) -> tuple[Bool[np.ndarray, "N K"], Bool[np.ndarray, "N K"]]:
    """By the image labels under a policy: whether each task is present, and whether the policy ignores its label."""
    on, weights = (x[:, taxonomy.label_indices] for x in targets(labels, policy, taxonomy))
    return on * weights > 0.5, weights == 0


def positive_tasks(
    labels: Float32[np.ndarray, "N L"], policy: str | Mapping[str, str], taxonomy: Taxonomy
) -> Bool[np.ndarray, "N K"]:
    """Whether each task is present by the image labels under a policy."""
    return task_targets(labels, policy, taxonomy)[0]


def parse_policy(policy: str | Mapping[str, str], taxonomy: Taxonomy = CHEXPERT) -> dict[str, str]:
    """The rule (`zeros`, `ones`, `ignore`) for each label when uncertain, and for `blank`.

    See `targets` for the grammar.

    Raises:
      InputError: for an unknown rule or label in the policy.
    """
    if isinstance(policy, str):
        pairs = [part.strip().rpartition("=") for part in policy.split(";") if part.strip()]
        policy = {name.strip() or "default": rule.strip() for name, _, rule in pairs}
        if len(policy) < len(pairs):
            raise InputError(f"label policy {';'.join(map(''.join, pairs))!r} sets an entry twice; keep one")
    for name, rule in policy.items():
        if rule not in ("zeros", "ones", "ignore"):
            raise InputError(
                f"label policy {name}={rule}: uncertain labels must be zeros, ones or ignore, as in "
                '"zeros;Edema=ones;blank=ignore"'
            )
    rules = dict.fromkeys(taxonomy.labels, policy.get("default", "zeros"))
    rules |= {"blank": policy.get("blank", "zeros")}
    labels: dict[str, str] = {}
    for name in [name for name in policy if name not in ("default", "blank")]:
        if (label := taxonomy.label(name)) in labels:
            raise InputError(f"label policy: {name!r} and {labels[label]!r} are one label; keep one")
        labels[label] = name
    return rules | {label: policy[name] for label, name in labels.items()}


def _columns(header: list[str], path: Path, taxonomy: Taxonomy) -> tuple[int, int | None, list[int]]:
    """Positions of Path, the view (None: no such column) and the labels."""
    places: dict[str, int] = {}
    for at, name in enumerate(map(str.strip, header)):
        if name not in taxonomy.labels:
            with suppress(InputError):
                name = taxonomy.label(name)
        if name and name in places:
            raise InputError(f"{path}: column {name!r} is listed twice, maybe under another name; keep one")
        places[name] = at
    if lacking := [name for name in ("Path", *taxonomy.labels) if name not in places]:
        raise InputError(
            f"{path}: no column {', '.join(lacking)}; the table needs Path and {len(taxonomy.labels)} labels. Leave a "
            "label that you do not have blank, and give --config.data.uncertainty='ignore;blank=ignore'"
        )
    return places["Path"], places.get("Frontal/Lateral"), [places[label] for label in taxonomy.labels]


def _parts(cell: str, path: Path, number: int) -> tuple[str, ...]:
    where = f"{path}, row {number}: path {cell!r}"
    if "/" in cell and "\\" in cell:
        raise InputError(f"{where} mixes / and \\; write it with / alone")
    # No patient/study/view is without /: backslashes alone were written on Windows.
    parts = PurePosixPath(cell.strip().replace("\\", "/")).parts
    if not parts:
        raise InputError(f"{where} is blank; give the image's, relative to the root")
    if parts[0].startswith("/") or parts[0].endswith(":") or ".." in parts or "\0" in cell:
        raise InputError(f"{where} leaves the root; give it relative to the root")
    if len(parts) < 3:
        raise InputError(f"{where} does not end in patient/study/view")
    return parts


def _is_frontal(view: str, path: Path, number: int) -> bool:
    frontal, lateral = "frontal" in view.lower(), "lateral" in view.lower()
    if frontal == lateral:
        raise InputError(f"{path}, row {number}: view {view!r} is neither Frontal nor Lateral")
    return frontal


def _value(cell: str, column: str, path: Path, number: int) -> float:
    try:
        value = float(cell.strip() or "nan")
    except ValueError:
        value = math.inf
    if not (math.isnan(value) or value in (1.0, 0.0, -1.0)):
        raise InputError(f"{path}, row {number}: {column} is {cell!r}; a label is 1, 0, -1 or blank")
    return value
