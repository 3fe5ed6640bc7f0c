"""The ten segmentation tasks, the fourteen CheXpert labels, and the names they go by in files."""

from collections.abc import Iterable

from chexseg_jax.errors import InputError

#: The ten pathologies that CheXlocalize annotates, in the order of every task axis in this package.
TASKS: tuple[str, ...] = (
    "Airspace Opacity",
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Lung Lesion",
    "Pleural Effusion",
    "Pneumothorax",
    "Support Devices",
)

#: CheXpert's fourteen label columns, in the order of the published CSVs and of every classifier's output.
LABELS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

#: The outputs of CheXseg's own PyTorch program, whose order is another: its constants.py, `CHEXPERT_TASKS` and
#: `CHEXPERT_SEGMENTATION_CLASSES`.
CHEXSEG_LABELS: tuple[str, ...] = (*LABELS[:3], "Lung Lesion", "Lung Opacity", *LABELS[5:])
CHEXSEG_TASKS: tuple[str, ...] = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Airspace Opacity",
    "Edema",
    "Consolidation",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Support Devices",
)

#: Tasks frequent enough in 50 images to choose a checkpoint by (the published code's choice).
COMMON_TASKS: tuple[str, ...] = (
    "Enlarged Cardiomediastinum",
    "Support Devices",
    "Cardiomegaly",
    "Atelectasis",
)

_ALIASES = {"Lung Opacity": "Airspace Opacity"}


def task_name(name: str) -> str:
    """The task's canonical name: `Lung Opacity` (CheXpert) is `Airspace Opacity` (CheXlocalize).

    Raises:
      InputError: for a name that is none of the ten tasks.
    """
    task = _ALIASES.get(name, name)
    if task not in TASKS:
        raise InputError(f"unknown pathology {name!r}; the ten are: {', '.join(TASKS)} (or Lung Opacity)")
    return task


def label_name(name: str) -> str:
    """CheXpert's column name of a label or task: the inverse alias of `task_name`.

    Raises:
      InputError: for a name that is none of the fourteen labels.
    """
    label = {task: alias for alias, task in _ALIASES.items()}.get(name, name)
    if label not in LABELS:
        raise InputError(f"unknown label {name!r}; the fourteen: {', '.join(LABELS)} (or Airspace Opacity)")
    return label


def label_indices(names: Iterable[str] = TASKS) -> list[int]:
    """Positions in `LABELS` of the given tasks or labels: picks the tasks out of a classifier's output."""
    return [LABELS.index(label_name(name)) for name in names]
