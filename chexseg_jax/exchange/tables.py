"""Readers of image labels: CSV tables, NIH's, MIMIC-CXR's, CheXbert's, CheXpert Plus, and our own layout."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.layout import Layout
from chexseg_jax.data.taxonomy import CHEXPERT, read_taxonomy
from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.items import Contents, Item, read_rows
from chexseg_jax.exchange.joining import without_labels_of_masks
from chexseg_jax.exchange.masks import Context

#: Further columns of CheXpert's tables.
_EXTRA = ("Sex", "Age", "AP/PA")
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validate": "valid", "validation": "valid"}
_SPLITS["test"] = "test"
#: What a CSV table's columns hold by their names, unless --columns says otherwise.
_DEFAULT = {"image": "Path", "view": "Frontal/Lateral"}
_LABELS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": -1.0, "-1.0": -1.0, "": float("nan")}


def read_csv(source: Path, context: Context) -> Contents:
    """A table with a row an image; each column with a name that `context.columns` does not have is a label.

    Cells are 1, 0, -1 (uncertain) or blank.

    Raises:
      InputError: for a missing column, a cell that is no label, an unknown view or split.
    """
    columns = {**_DEFAULT, **context.columns}
    items = []
    for line, row in read_rows(source, dict.fromkeys([columns["image"], *context.columns.values()])):
        if path := context.find(row[columns["image"]]):
            row.pop("", None)  # pandas' row numbers
            cells = {name: row[name] for name in row if name not in (*columns.values(), *_EXTRA)}
            items.append(_item(row, path, cells, context, f"{source}, line {line}"))
    return Contents(items)


def read_nih(source: Path, context: Context) -> Contents:
    """NIH ChestX-ray14's Data_Entry_2017.csv.

    A finding that an image does not list is negative; all are blank if it lists none.

    Raises:
      InputError: for a missing column.
    """
    columns = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position")
    rows = list(read_rows(source, columns))
    listed = [{name.strip() for name in row["Finding Labels"].split("|")} - {""} for _, row in rows]
    found = sorted(set().union(*listed))
    items = []
    for (_, row), positive in zip(rows, listed, strict=True):
        if (path := context.find(row["Image Index"])) is None:
            continue
        items.append(
            Item(
                row["Image Index"],
                path,
                labels={name: float(name in positive) if positive else math.nan for name in found},
                patient=row["Patient ID"],
                study=row["Follow-up #"],
                frontal=_view(row["View Position"]),
                extra={
                    "Sex": {"M": "Male", "F": "Female"}.get(row.get("Patient Gender", ""), ""),
                    "Age": row.get("Patient Age", "").rstrip("Y").lstrip("0"),
                    "AP/PA": row["View Position"],
                },
            )
        )
    return Contents(items)


def read_mimic(source: Path, context: Context) -> Contents:
    """MIMIC-CXR-JPG's labels, mimic-cxr-2.0.0-chexpert.csv or -negbio.csv, one row a study.

    The tables of images, -metadata.csv, and of splits, -split.csv, lie beside it.

    Raises:
      InputError: for a missing table or column, or a cell that is no label.
    """
    labels = {}
    for line, row in read_rows(source, ("subject_id", "study_id")):
        named = {name: value for name, value in row.items() if name not in ("subject_id", "study_id")}
        labels[row["study_id"]] = _labels(named, f"{source}, line {line}", context)
    stem = source.name.rpartition("-")[0]
    splits = source.with_name(f"{stem}-split.csv")
    split_of = {
        row["dicom_id"]: _split(row["split"], f"{splits}, line {line}")
        for line, row in read_rows(splits, ("dicom_id", "split"))
    }
    items = []
    images = source.with_name(f"{stem}-metadata.csv")
    for _, row in read_rows(images, ("dicom_id", "subject_id", "study_id", "ViewPosition")):
        if row["study_id"] not in labels:
            context.left_out.add("images of studies without labels", row["dicom_id"])
        elif path := context.find(row["dicom_id"]):
            items.append(
                Item(
                    row["dicom_id"],
                    path,
                    labels=labels[row["study_id"]],
                    patient=row["subject_id"],
                    study=row["study_id"],
                    split=split_of.get(row["dicom_id"]),
                    frontal=_view(row["ViewPosition"]),
                    extra={"AP/PA": row["ViewPosition"] if row["ViewPosition"] in ("AP", "PA") else ""},
                )
            )
    return Contents(items)


def read_chexbert(source: Path, context: Context) -> Contents:
    """CheXbert's output, labeled_reports.csv: reports and fourteen labels, without a name of an image.

    `context.reports` is the table that CheXbert read, with the same reports in the same order and, in further columns,
    the images; without it, the output itself must have them.

    Raises:
      InputError: for reports that are not those of the output, and as `read_csv`.
    """
    columns = {**_DEFAULT, **context.columns}
    report, images = "Report Impression", columns["image"]
    labelled = list(read_rows(source, (report, *CHEXPERT.labels)))
    reports = context.reports or source
    rows = list(read_rows(reports, (report,)))
    if len(rows) != len(labelled):
        raise InputError(
            f"{source}: {len(labelled)} rows, {reports} has {len(rows)}; give what CheXbert read"
        )
    wanted = (images, *context.columns.values())
    if rows and (lacking := [name for name in wanted if name not in rows[0][1]]):
        raise InputError(
            f"{reports}: no column {lacking[0]}; give with --reports the table that CheXbert read, and with "
            "--columns image=NAME its column of images"
        )
    items = []
    for (line, row), (_, labels) in zip(rows, labelled, strict=True):
        if row[report] != labels[report]:
            raise InputError(
                f"{reports}, line {line}: another report than in {source}; give what CheXbert read"
            )
        if path := context.find(row[images]):
            cells = {name: labels[name] for name in CHEXPERT.labels}
            items.append(_item(row, path, cells, context, f"{source}, line {line}"))
    return Contents(items)


def read_plus(source: Path, context: Context) -> Contents:
    """CheXpert Plus: the labels of findings_fixed.json, impression_fixed.json or report_fixed.json, a line an image.

    `context.reports` is df_chexpert_plus_240401.csv, with patients, views and splits.

    Raises:
      InputError: for a malformed line, an image that the table lacks, or a missing column.
    """
    if context.reports is None:
        raise InputError(f"{source}: give the data set's table, df_chexpert_plus_240401.csv, with --reports")
    columns = ("path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "split")
    rows = {row["path_to_image"]: row for _, row in read_rows(context.reports, columns)}
    items = []
    for number, line in enumerate(
        read_text(source, "CheXbert's labels, a JSON object a line").splitlines(), 1
    ):
        where = f"{source}, line {number}"
        if not line.strip():
            continue
        try:
            entry: Any = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("path_to_image"), str):
            raise InputError(f"{where}: expected a JSON object with path_to_image and labels")
        name = entry.pop("path_to_image")
        if name not in rows:
            raise InputError(
                f"{where}: {name} is not in {context.reports}; give the table of the same release"
            )
        row = rows[name]
        if path := context.find(name):
            cells = {label: "" if value is None else str(value) for label, value in entry.items()}
            items.append(
                Item(
                    name,
                    path,
                    labels=_labels(cells, where, context),
                    patient=row["deid_patient_id"].removeprefix("patient"),
                    split=_split(row["split"], where),
                    frontal=_view(row["frontal_lateral"]),
                    extra={"Sex": row.get("sex", ""), "Age": row.get("age", ""), "AP/PA": row["ap_pa"]},
                )
            )
    return Contents(items)


def read_root(layout: Layout) -> Contents:
    """The images, labels and masks of our own layout, with their splits, see `without_labels_of_masks`.

    Raises:
      InputError: as `chexpert.read_labels` and `chexlocalize.read_segmentations`.
    """
    taxonomy, items = read_taxonomy(layout.root), []
    for split, table in layout.tables.items():
        studies = chexpert.read_labels(table, root=layout.root, taxonomy=taxonomy)
        file = layout.segmentations.get(split)
        entries = read_segmentations(file, taxonomy).entries if file else {}
        for i, (_, row) in enumerate(read_rows(table)):
            masks = entries.get(studies.ids[i])
            items.append(
                Item(
                    studies.ids[i],
                    studies.paths[i],
                    masks=None if masks is None else dict(masks),
                    labels=dict(zip(taxonomy.labels, studies.labels[i].tolist(), strict=True)),
                    patient=studies.patients[i].removeprefix("patient"),
                    split=split,
                    frontal=bool(studies.frontal[i]),
                    extra={name: row.get(name, "") for name in _EXTRA},
                )
            )
    items = without_labels_of_masks(items, taxonomy)
    return Contents(items, taxonomy.tasks if layout.segmentations else ())


def _item(row: Mapping[str, str], path: Path, cells: Mapping[str, str], context: Context, where: str) -> Item:
    """An item of a table whose columns are named by what they hold."""
    columns = {**_DEFAULT, **context.columns}
    return Item(
        row[columns["image"]],
        path,
        labels=_labels(cells, where, context),
        patient=row.get(columns.get("patient", "")) or None,
        study=row.get(columns.get("study", "")) or None,
        split=_split(row.get(columns.get("split", ""), ""), where),
        frontal=_view(row.get(columns["view"], "")),
        extra={name: row[name] for name in _EXTRA if name in row},
    )


def _labels(cells: Mapping[str, str], where: str, context: Context) -> dict[str, float]:
    cells = {name: "" if name in context.unwanted else cell for name, cell in cells.items()}
    for name, cell in cells.items():
        if cell not in _LABELS:
            raise InputError(
                f"{where}: {name} is {cell!r}; a label is 1, 0, -1 or blank. A column that is no label is left out "
                f"by --rename '{name}='"
            )
    return {name: _LABELS[cell] for name, cell in cells.items()}


def _view(cell: str) -> bool | None:
    """Frontal (True), lateral (False), or unknown."""
    name = cell.strip().lower()
    return True if name in ("frontal", "pa", "ap") else False if name in ("lateral", "ll", "lat") else None


def _split(cell: str, where: str) -> str | None:
    if cell.strip() and cell.strip().lower() not in _SPLITS:
        raise InputError(f"{where}: split {cell!r} must be one of {', '.join(_SPLITS)}")
    return _SPLITS.get(cell.strip().lower())
