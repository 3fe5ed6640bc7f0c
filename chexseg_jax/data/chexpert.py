"""CheXpert's tables: fourteen labels an image, and what the uncertain ones count as.

A label is 1, 0, -1 (the report is uncertain) or blank (not mentioned). Paths in the tables start with the
name of the download wherever the table lies, `CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`.

Source: Irvin et al., "CheXpert", AAAI 2019, https://stanfordmlgroup.github.io/competitions/chexpert/.
"""

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from chexseg_jax.data.layout import patient_folders
from chexseg_jax.data.taxonomy import LABELS, label_name
from chexseg_jax.errors import InputError
from chexseg_jax.files import written_aside

#: Columns of the published train.csv and valid.csv.
COLUMNS: tuple[str, ...] = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS)

#: Columns of the official test_labels.csv, which tells nothing about the patient.
TEST_COLUMNS: tuple[str, ...] = ("Path", *LABELS)

#: The spellings that published tables use; any other goes through `_value`, which is slower.
_VALUES = {"": math.nan, "1.0": 1.0, "0.0": 0.0, "-1.0": -1.0, "1": 1.0, "0": 0.0, "-1": -1.0}


@dataclass(frozen=True)
class Studies:
    """The rows of a table, one an image, in its order.

    Attributes:
      ids: such as `patient64541_study1_view1_frontal`, as in CheXlocalize's files; no two are equal.
      paths: of the image files, below the root they were read for; they need not exist.
      labels: in the order of `pathologies.LABELS`: 1, 0, -1 uncertain, nan blank.
      frontal: whether the view is frontal (else lateral).
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: Float32[np.ndarray, "N 14"]
    frontal: Bool[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | Bool[np.ndarray, " N"]) -> "Studies":
        """Some rows: by number, in the order given, or by a mask, as in `r.take(r.frontal)`."""
        rows = np.arange(len(self))[np.asarray(rows) if len(rows) else slice(0)]
        return Studies(
            tuple(self.ids[i] for i in rows),
            tuple(self.paths[i] for i in rows),
            self.labels[rows],
            self.frontal[rows],
        )


def read_labels(csv_path: str | Path, *, root: str | Path) -> Studies:
    """Reads a CheXpert table: train.csv, valid.csv, or the official test_labels.csv (only Path and labels).

    `Airspace Opacity` is accepted for `Lung Opacity`. The view comes from `Frontal/Lateral`, and where the
    table has no such column, from the file's name. Which split the table is, only the caller knows.

    Args:
      csv_path: the table.
      root: the folder that holds the images: either the one that paths in the table start from, or the
        CheXpert folder itself, or the one that CheXlocalize was downloaded to (see `layout.patient_folders`).

    Raises:
      InputError: naming file, row and value, for a table that is missing, empty or without a column, for a
        label other than 1, 0, -1 and blank, an image listed twice, and a path that leaves the root.
    """
    csv_path, root = Path(csv_path), Path(root).absolute()
    ids: dict[str, int] = {}
    paths, labels, frontal = [], [], []
    folders: dict[tuple[str, ...], tuple[Path, dict[str, Path]]] = {}
    rows = _rows(csv_path)
    _, header = next(rows, (0, []))
    path_at, view_at, labels_at = _columns(header, csv_path)
    for number, row in rows:
        if len(row) != len(header):
            raise InputError(f"{csv_path}, row {number}: {len(row)} cells under {len(header)} columns")
        parts = _parts(row[path_at], csv_path, number)
        image_id = "_".join((*parts[-3:-1], parts[-1].partition(".")[0]))
        if image_id in ids:
            raise InputError(f"{csv_path}, row {number}: {image_id} is also in row {ids[image_id]}; keep one")
        ids[image_id] = number
        if parts[:-3] not in folders:
            first, *others = places = patient_folders(root, parts)
            # Listed once: asking three folders for each of CheXpert's images takes a network's disk minutes.
            homes = (
                {name: place for place in reversed(places) for name in os.listdir(place)} if others else {}
            )
            folders[parts[:-3]] = first, homes
        first, homes = folders[parts[:-3]]
        paths.append(homes.get(parts[-3], first).joinpath(*parts[-3:]))
        frontal.append(_is_frontal(parts[-1] if view_at is None else row[view_at], csv_path, number))
        try:
            labels.append([_VALUES[row[at]] for at in labels_at])
        except KeyError:
            labels.append([_value(row[at], header[at], csv_path, number) for at in labels_at])
    if not ids:
        raise InputError(f"{csv_path}: no rows; expected one an image below the header")
    return Studies(tuple(ids), tuple(paths), np.array(labels, np.float32), np.array(frontal))


def write_labels(
    path: str | Path, rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str] = COLUMNS
) -> None:
    """Writes a table as published: labels `1.0`, `0.0`, `-1.0` (uncertain) or blank (None or nan).

    Args:
      path: the file; it appears only when complete.
      rows: one mapping an image, with `Path` and what else of `columns` is known; other keys are left out.
      columns: `COLUMNS`, or `TEST_COLUMNS` for the form of the official test_labels.csv.
    """

    def cell(column: str, value: Any) -> str:
        if value is None or value != value:  # nan is the one value that differs from itself
            return ""
        return f"{float(value):.1f}" if column in LABELS else str(value)

    with written_aside(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for row in rows:
            if "Path" not in row:
                raise ValueError(f"{path}: a row without Path: {dict(row)}")
            table.writerow([cell(column, row.get(column)) for column in columns])


def targets(
    labels: Float32[np.ndarray, "N 14"], policy: str | Mapping[str, str] = "zeros"
) -> tuple[Float32[np.ndarray, "N 14"], Float32[np.ndarray, "N 14"]]:
    """What a classifier is trained towards: (targets in {0, 1}, weights in {0, 1}).

    A policy says what uncertain labels count as: `zeros`, `ones`, or `ignore` (weight 0). It may differ per
    label, and `blank` sets what labels that the report does not mention count as (0 unless said otherwise, as
    in the CheXpert paper): `"zeros"`, `"zeros;Edema=ones;Atelectasis=ones"`, `"ignore;blank=ignore"`, or the
    same as a mapping with the first part under `default`. Ignored labels have target 0.

    Args:
      labels: 1, 0, -1 uncertain, nan blank, in the order of `pathologies.LABELS`.
      policy: as above.

    Raises:
      InputError: for a policy that names no such rule or label.
    """
    rules = parse_policy(policy)
    uncertain = np.array([rules[label] for label in LABELS])
    blank, unsure = np.isnan(labels), labels == -1
    on = (labels == 1) | (unsure & (uncertain == "ones")) | (blank & (rules["blank"] == "ones"))
    off = (unsure & (uncertain == "ignore")) | (blank & (rules["blank"] == "ignore"))
    return on.astype(np.float32), (~off).astype(np.float32)


def parse_policy(policy: str | Mapping[str, str]) -> dict[str, str]:
    """The rule (`zeros`, `ones`, `ignore`) for each of the fourteen labels when uncertain, and for `blank`.

    See `targets` for the grammar.

    Raises:
      InputError: for a policy that names no such rule or label.
    """
    if isinstance(policy, str):
        pairs = [part.strip().rpartition("=") for part in policy.split(";") if part.strip()]
        policy = {name.strip() or "default": rule.strip() for name, _, rule in pairs}
        if len(policy) < len(pairs):
            raise InputError(f"label policy {';'.join(map(''.join, pairs))!r} sets something twice; keep one")
    named = {name: rule for name, rule in policy.items() if name not in ("default", "blank")}
    for name, rule in policy.items():
        if rule not in ("zeros", "ones", "ignore"):
            raise InputError(
                f"label policy {name}={rule}: no such rule; uncertain labels can be zeros, ones or ignore, "
                f'as in "zeros;Edema=ones;blank=ignore"'
            )
    rules = dict.fromkeys(LABELS, policy.get("default", "zeros")) | {"blank": policy.get("blank", "zeros")}
    return rules | {label_name(name): rule for name, rule in named.items()}


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of the lines that are not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, strict=True)
            for row in table:
                if row:
                    yield table.line_num, row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a CheXpert table") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no CSV table ({error}); fetch it again") from None


def _columns(header: list[str], path: Path) -> tuple[int, int | None, list[int]]:
    """Where Path, the view (None: not there) and the fourteen labels stand."""
    places: dict[str, int] = {}
    for at, name in enumerate(header):
        name = "Lung Opacity" if name.strip() == "Airspace Opacity" else name.strip()
        if name in places:
            raise InputError(f"{path}: column {name!r} twice (Airspace Opacity is Lung Opacity); keep one")
        places[name] = at
    if lacking := [name for name in TEST_COLUMNS if name not in places]:
        raise InputError(
            f"{path}: no column {', '.join(lacking)}; needed are Path and the fourteen labels: one that you do not "
            "have may be blank, with --config.data.uncertainty='ignore;blank=ignore'"
        )
    return places["Path"], places.get("Frontal/Lateral"), [places[label] for label in LABELS]


def _parts(cell: str, path: Path, number: int) -> tuple[str, ...]:
    parts = PurePosixPath(cell.strip()).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in cell or "\0" in cell:
        raise InputError(f"{path}, row {number}: path {cell!r} leaves the root; give it relative to the root")
    if len(parts) < 3:
        raise InputError(f"{path}, row {number}: path {cell!r} does not end in patient/study/view")
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
