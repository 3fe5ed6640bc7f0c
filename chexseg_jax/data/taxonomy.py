"""The task set of a data set: which label columns its tables have, which tasks are segmented, what they are called.

CheXpert's fourteen labels and CheXlocalize's ten tasks are the built-in one (`CHEXPERT`). A `tasks.toml` beside the
data gives any other; `read_taxonomy` documents the file.
"""

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from chexseg_jax.data.text import read_text
from chexseg_jax.errors import InputError, naming
from chexseg_jax.files import written_aside

#: What a task that a segmentations file does not list for an image means: no pixel of it, or no knowledge of it.
Missing = Literal["empty", "unknown"]

MAX_TASKS = 64
FILE = "tasks.toml"

#: One colour a task, repeated from the thirteenth on. Found by search: with protanopia, deuteranopia or tritanopia, the
#: first ten are at least .11 apart in OKLab, all twelve .08; none is close to black or grey.
PALETTE = (
    *("#999911", "#4444ff", "#88ffee", "#885599", "#ffff44", "#3399ee"),
    *("#ccbbff", "#bb3300", "#ee6699", "#55dd00", "#ffbb99", "#aa00cc"),
)


@dataclass(frozen=True)
class Taxonomy:
    """Label columns and tasks, in the order of every label axis (L) and task axis (K).

    Attributes:
      labels: the label columns of the tables, in the order of a classifier's outputs.
      tasks: what is segmented, 1 to 64; masks may overlap.
      label_of: task -> the label that speaks for it; a task without an entry has a label of its own name.
      aliases: other names in files -> a task's or label's own name.
      common: tasks frequent enough in a small validation set to choose a checkpoint by.
      colours: one `#rrggbb` a task.
      missing: see `Missing`.

    Raises:
      InputError: naming the entry that is wrong.
    """

    labels: tuple[str, ...]
    tasks: tuple[str, ...]
    label_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    common: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    missing: Missing = "empty"

    def __post_init__(self):
        if not 1 <= len(self.tasks) <= MAX_TASKS:
            raise InputError(f"{len(self.tasks)} tasks: a task set has 1 to {MAX_TASKS}")
        for kind, names in (("label", self.labels), ("task", self.tasks)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise InputError(f"{kind} {twice[0]!r} is listed twice")
        if unknown := sorted({*self.label_of, *self.common} - {*self.tasks}):
            raise InputError(f"{unknown[0]!r} is not a task; the tasks are {', '.join(self.tasks)}")
        for task in self.tasks:
            if self.label_of_task(task) not in self.labels:
                raise InputError(
                    f"task {task!r} has no label {self.label_of_task(task)!r}; the labels are "
                    f"{', '.join(self.labels)}; label_of names a task's label"
                )
        for name, meant in self.aliases.items():
            if name in (*self.tasks, *self.labels):
                raise InputError(f"alias {name!r} is the name of a task or label itself")
            if meant not in (*self.tasks, *self.labels):
                raise InputError(f"alias {name!r} stands for {meant!r}, which is neither a task nor a label")
        if not self.colours:
            colours = tuple(PALETTE[k % len(PALETTE)] for k in range(len(self.tasks)))
            object.__setattr__(self, "colours", colours)
        if len(self.colours) != len(self.tasks):
            raise InputError(f"{len(self.colours)} colours for {len(self.tasks)} tasks")
        if wrong := [colour for colour in self.colours if not re.fullmatch("#[0-9a-fA-F]{6}", colour)]:
            raise InputError(f"colour {wrong[0]!r} must be #rrggbb, such as {PALETTE[0]}")

    def task(self, name: str) -> str:
        """The canonical name of a task: `Lung Opacity` (CheXpert) is `Airspace Opacity` (CheXlocalize).

        Raises:
          InputError: for a name that is not a task.
        """
        task = self._canonical(name)
        if task not in self.tasks:
            speaking = [t for t in self.tasks if self.label_of_task(t) == task]
            if len(speaking) != 1:
                others = f" (or {', '.join(self._other_names)})" if self._other_names else ""
                raise InputError(f"unknown task {name!r}; the tasks are {', '.join(self.tasks)}{others}")
            task = speaking[0]
        return task

    def label_of_task(self, task: str) -> str:
        """The label that speaks for a task, also where another label has the task's own name."""
        return self.label_of.get(task, task)

    def label(self, name: str) -> str:
        """The label column of a label or task; a label where both have the name.

        Raises:
          InputError: for a name that is neither.
        """
        label = self._canonical(name)
        if label not in self.labels:
            if label not in self.tasks:
                raise InputError(f"unknown label {name!r}; the labels are {', '.join(self.labels)}")
            label = self.label_of[label]
        return label

    @cached_property
    def label_indices(self) -> list[int]:
        """For each task, the position of its label among `labels`: picks the tasks out of a classifier's output."""
        return [self.labels.index(self.label_of_task(task)) for task in self.tasks]

    @property
    def planes(self) -> int:
        """Bytes that the masks of all tasks take in one pixel, a bit each."""
        return -(-len(self.tasks) // 8)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `Taxonomy.from_dict` is the inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Taxonomy":
        """A taxonomy from lists and tables as JSON and TOML have them.

        Raises:
          InputError: naming an entry that is unknown, missing or of the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - fields):
            raise InputError(f"unknown entry {unknown[0]!r}; the known ones are {', '.join(fields)}")
        if lacking := sorted({"labels", "tasks"} - values.keys()):
            raise InputError(f"no entry {lacking[0]!r}")
        if values.get("missing", "empty") not in get_args(Missing):
            raise InputError(f"missing={values['missing']!r} must be one of {', '.join(get_args(Missing))}")
        for name, value in values.items():
            table = name in ("label_of", "aliases")
            items = value.values() if table and isinstance(value, Mapping) else value
            sound = isinstance(value, Mapping if table else list | tuple) and all(
                isinstance(item, str) for item in items
            )
            if not sound and name != "missing":
                kind = "table" if table else "list"
                raise InputError(f"{name} must be a {kind} of strings, not {str(value)[:60]!r}")
        own: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**own)

    def named(self, values: Iterable[float]) -> dict[str, float | None]:
        """{task: value to four decimals, or None for nan}, as JSON files hold scores."""
        return {
            task: None if np.isnan(value) else round(float(value), 4)
            for task, value in zip(self.tasks, values, strict=True)
        }

    @property
    def _other_names(self) -> list[str]:
        return [*self.aliases, *(label for task, label in self.label_of.items() if label != task)]

    def _canonical(self, name: str) -> str:
        return self.aliases.get(name, name)


def read_taxonomy(root: Path) -> Taxonomy:
    """The task set of the data below `root`: its `tasks.toml`, or CheXpert's where there is none.

    The file has the attributes of `Taxonomy` as entries; `labels` and `tasks` are required::

        labels = ["Nodule", "Fracture", "No Finding"]
        tasks = ["Nodule", "Rib Fracture"]
        missing = "unknown"          # a task that an image's masks do not list was not annotated
        [label_of]
        "Rib Fracture" = "Fracture"

    Raises:
      InputError: naming the file and the entry that is wrong.
    """
    path = Path(root) / FILE
    if not path.exists():
        return CHEXPERT
    try:
        values = tomllib.loads(read_text(path, "a task set in TOML"))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from None
    with naming(path):
        return Taxonomy.from_dict(values)


def write_taxonomy(folder: Path, taxonomy: Taxonomy) -> None:
    """Write `tasks.toml`, which `read_taxonomy` reads, unless the task set is CheXpert's.

    Raises:
      InputError: for a folder that holds another task set.
    """
    path = Path(folder) / FILE
    if path.exists() and read_taxonomy(folder) != taxonomy:
        raise InputError(f"{path}: another task set than that of the masks beside it; give another folder")
    if not path.exists() and taxonomy != CHEXPERT:
        with written_aside(path) as file:
            file.write(_toml(taxonomy))


def _toml(taxonomy: Taxonomy) -> str:
    lines, tables = [], []
    for name, value in taxonomy.to_dict().items():
        if isinstance(value, Mapping):
            entries = [f"{_quoted(k)} = {_quoted(v)}" for k, v in value.items()]
            tables += [f"[{name}]", *entries] if value else []
        else:
            lines.append(f"{name} = {_quoted(value)}")
    return "\n".join([*lines, *tables, ""])


def _quoted(value: Any) -> str:
    """A string, or a list of them, as TOML has it."""
    return json.dumps(value, ensure_ascii=False)


#: CheXpert's fourteen label columns, in the order of the published tables, and CheXlocalize's ten tasks. The common
#: tasks are the published code's choice.
CHEXPERT = Taxonomy(
    labels=(
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
    ),
    tasks=(
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
    ),
    label_of={"Airspace Opacity": "Lung Opacity"},
    common=("Enlarged Cardiomediastinum", "Support Devices", "Cardiomegaly", "Atelectasis"),
)

#: The order of the outputs of CheXseg's own PyTorch program: its constants.py, `CHEXPERT_TASKS` and
#: `CHEXPERT_SEGMENTATION_CLASSES`.
CHEXSEG_LABELS = (*CHEXPERT.labels[:3], "Lung Lesion", "Lung Opacity", *CHEXPERT.labels[5:])
CHEXSEG_TASKS = (
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
