"""The registry of importers."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from chexseg_jax.exchange import labelme, masks, tables
from chexseg_jax.exchange.items import Contents
from chexseg_jax.exchange.masks import Context


class Importer(NamedTuple):
    """How a format is read, what its source is, and which flags it uses of those that not all formats do."""

    read: Callable[[Path, Context], Contents]
    source: str
    flags: tuple[str, ...] = ()


IMPORTERS: dict[str, Importer] = {
    "csv": Importer(tables.read_csv, "table with a row an image and a column a label", ("columns",)),
    "coco": Importer(masks.read_coco, "COCO JSON, as CVAT and Label Studio export it", ("boxes",)),
    "png": Importer(masks.read_png, "folder of PNG masks, TASK/NAME.png or NAME_TASK.png"),
    "labelme": Importer(labelme.read_labelme, "folder of LabelMe's JSON files"),
    "siim": Importer(masks.read_siim, "SIIM-ACR Pneumothorax's run lengths, train-rle.csv"),
    "vindr": Importer(masks.read_vindr, "VinDr-CXR's boxes, annotations_train.csv", ("agree",)),
    "chestxdet": Importer(masks.read_chestxdet, "ChestX-Det's polygons, ChestX_Det_train.json", ("boxes",)),
    "nih": Importer(tables.read_nih, "NIH ChestX-ray14's labels, Data_Entry_2017.csv"),
    "mimic": Importer(tables.read_mimic, "MIMIC-CXR-JPG's labels, mimic-cxr-2.0.0-chexpert.csv"),
    "chexbert": Importer(
        tables.read_chexbert, "CheXbert's labels, labeled_reports.csv", ("reports", "columns")
    ),
    "plus": Importer(
        tables.read_plus, "CheXpert Plus' labels, impression_fixed.json or its like", ("reports",)
    ),
}
