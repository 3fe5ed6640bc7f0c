"""What a configuration would do: its settings, stages, disk and time, with nothing computed."""

import json
import math
import re
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from chexseg_jax.artifact import plain, read_record
from chexseg_jax.config_args import header
from chexseg_jax.errors import DamagedError, InputError, MissingWeightsError
from chexseg_jax.experiment import Run
from chexseg_jax.pseudo import Images
from chexseg_jax.report.protocol import describe_protocol
from chexseg_jax.settings import TABLES, Setting, trials
from chexseg_jax.sweep import of_shard

#: Bytes of a network's weights, by its name.
_WEIGHTS = {"resnet18": 45e6, "resnet50": 94e6, "densenet121": 28e6, "irnet": 96e6}
_WEIGHTS |= {"deeplabv3plus_resnet18": 49e6, "deeplabv3plus_resnet50": 107e6}
_TRAININGS = ("classifier", "moco", "irnet", "segmentation")
#: Bytes of a training's checkpoints in those of its weights: the latest and the best, each with Adam's two moments.
_CHECKPOINTS = 2 * 3
#: Inputs that leave a stage's time as it is.
_SAME_TIME = ("seed", "p")
#: An artifact in a stage's inputs, other than a prepared set, which stands for the number of images.
_ARTIFACT = re.compile(r'"(?!prepare-)[\w-]+-[0-9a-f]{12}"')


class Stage(NamedTuple):
    """A stage of a plan.

    Attributes:
      folder: of its artifact.
      name: such as `classifier-densenet121`.
      settings: its inputs by name, but for seeds, artifacts and arrays.
      size, seconds: of the artifact in bytes, and of making it; of a stage to do, an estimate; nan if unknown.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    size: float
    seconds: float

    @property
    def state(self) -> str:
        """One of finished, begun and to do."""
        if self.folder.is_dir():
            return "finished"
        return "begun" if self.folder.with_name(f"{self.folder.name}.part").is_dir() else "to do"


@dataclass(frozen=True)
class _Unprepared(Run):
    """A run whose data is still to be prepared: how many images it draws is known, and not which."""

    def positives(self, count: int) -> Images:
        return Images(self.data.weak, np.zeros(count, int))

    @property
    def expert_rows(self) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " V"]]:  # type: ignore[override]
        rows = np.full(self.config.experts or 1, self.config.trial * (self.config.experts > 0))
        return rows, rows

    def _pseudo_set(self) -> Images:
        return Images(self.data.weak, np.full(self.config.pseudo_count, self.config.trial + 1))


def describe(config: ConfigDict, workdir: Path, file: str) -> str:
    """The plan of a configuration, for a reader.

    Args:
      config: of a single run or of a table.
      workdir: see `experiment.run`; it need not exist.
      file: of the configuration, with its arguments; lines of its header give a time.

    Raises:
      InputError: for what would stop the run at its start.
    """
    mine = of_shard(trials(config), config.shard) if config.kind in TABLES else []
    one = Run.open(config, workdir, [trial.config(config) for trial in mine], planning=True)
    folders = filter(None, (one.data.weak, one.data.expert, one.data.test))
    prepared = all(folder.is_dir() for folder in folders)
    one = one if prepared else _Unprepared(one.store, one.config, one.data, one.apart)
    others: Counter[str] = Counter()
    for single in [replace(one, config=trial.config(one.config)) for trial in mine] or [one]:
        try:
            _name_stages(single)
        except MissingWeightsError as error:
            others[f"will be absent: {error}"] += 1
        except InputError as error:
            if not mine or isinstance(error, DamagedError):
                raise
            others[f"will fail: {error}"] += 1  # as in the table, the other runs complete
    stages = _stages(one)
    lines = [
        f"{_title(config, len(mine))}, seed {config.seed}",
        f"configuration: {file}",
        f"data: {config.root or 'the phantom (synthetic radiographs, made here)'}, {config.data.size} px",
        describe_protocol(one.config),  # with the names of imported networks
        "",
        *_listing(stages),
        *(f"{runs} runs {outcome}" for outcome, runs in others.items()),
        "",
        *_totals(stages, workdir),
    ]
    if not prepared:
        lines.append("The data is not prepared, so which images are drawn is unknown.")
    header_lines = [
        line.strip()
        for line in header(file.partition(":")[0]).splitlines()
        if re.search("minute|hour|GPU", line)
    ]
    return "\n".join([*lines, *(["The configuration's header says:"] if header_lines else []), *header_lines])


def _name_stages(one: Run) -> None:
    """Have the planning store name every artifact of a run."""
    match one.config.kind:
        case "classifier":
            one.auroc(one.classifier("classifier"))
        case "moco":
            for encoder in (one.moco(), None, *filter(None, [one.moco_start()])):
                one.probe(encoder)
        case _:
            one.segmentation()


def _title(config: ConfigDict, runs: int) -> str:
    if config.kind in TABLES:
        grid = "; ".join(f"{key} {', '.join(map(str, values))}" for key, values in config.grid.items())
        return f"{config.name}: {runs} runs ({grid}; {config.trials} trials)"
    if config.kind != "segmentation":
        return config.name
    keys = ("p", "init", "pseudo", "pseudo_count", "experts", "clock")
    return f"{config.name}: {Setting(*(config[key] for key in keys)).words}, trial {config.trial}"


def _stages(one: Run) -> list[Stage]:
    made = [path.parent for path in one.store.folder.glob("*/artifact.json") if path.parent.suffix != ".part"]
    cards = {folder: read_record(folder) for folder in made}
    alike = {_work(card["stage"], card["key"]): folder for folder, card in cards.items()}
    stages = []
    for folder, (name, inputs) in one.store.planned.items():
        like = folder if folder in cards else alike.get(_work(name, inputs))
        size = _size(like) if like else _estimate(name, inputs, one)
        stages.append(
            Stage(folder, name, _settings(inputs), size, cards[like]["seconds"] if like else math.nan)
        )
    return stages


def _work(name: str, inputs: Mapping[str, Any]) -> str:
    """What a stage's time depends on: its inputs but for the seed, the mixture, and networks and maps."""
    kept = {key: value for key, value in plain(inputs).items() if key not in (*_SAME_TIME, "version")}
    return _ARTIFACT.sub("*", json.dumps([name, kept], sort_keys=True))


def _settings(inputs: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, value in inputs.items():
        if isinstance(value, Mapping | ConfigDict):
            settings |= _settings(value)
        elif isinstance(value, str | bool | int | float) and key != "seed":
            settings[key] = value
    return settings


def _size(folder: Path) -> float:
    return math.fsum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _estimate(name: str, inputs: Mapping[str, Any], one: Run) -> float:
    """Bytes of an artifact from its shapes; nan for the small ones."""
    config, sources = one.config, one.data.sources
    kind, _, which = name.partition("-")
    pixels, tasks = float(config.data.size) ** 2, len(sources.taxonomy.tasks)
    match kind:
        case "phantom":
            images = sum(config.phantom[split] for split in ("train", "valid", "test"))
            return images * float(config.phantom.size) ** 2
        case "prepare":
            studies = getattr(sources, which).studies
            images = len(studies) if studies else config.phantom[which]
            return images * pixels * (1 if which == "train" else 4)  # with masks
        case "walks":  # maps of float32 and edges of float16, at a quarter of the side
            return len(inputs["rows"]) * pixels / 16 * (4 * tasks + 2)
        case "segmentation":
            which = f"{config.segmentation.decoder}_{inputs['encoder']}"
        case "irnet":
            which = kind
    return _WEIGHTS.get(which, math.nan)


def _listing(stages: Sequence[Stage]) -> list[str]:
    """For the stages of each name, a line with their states, disk and time, and the settings that they share."""
    lines = [f"{'stage':<24} {'state':<24} {'disk':>9}  time"]
    for name in dict.fromkeys(stage.name for stage in stages):
        group = [stage for stage in stages if stage.name == name]
        counts = Counter(stage.state for stage in group)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        size, seconds = _megabytes(_sum(s.size for s in group)), _duration(_sum(s.seconds for s in group))
        lines.append(f"{name:<24} {states:<24} {size:>9}  {seconds}")
        first, *others = (stage.settings for stage in group)
        shared = [f"{k}={v}" for k, v in first.items() if all(other.get(k) == v for other in others)]
        lines += textwrap.wrap(", ".join(shared), 100, initial_indent="    ", subsequent_indent="    ")
    return lines


def _totals(stages: Sequence[Stage], workdir: Path) -> list[str]:
    todo = [stage for stage in stages if stage.state != "finished"]
    unknown = dict.fromkeys(stage.name for stage in todo if math.isnan(stage.seconds))
    known = _duration(_sum(stage.seconds for stage in todo))
    if not todo:
        time = "Time: everything is finished; the report is written again."
    elif known == "unknown":
        time = "Time: unknown, since no stage with these settings has finished here."
    else:
        time = f"Time: {known}, as stages with the same settings took here"
        time += f"; unknown: {', '.join(unknown)}." if unknown else "."
    weights = [stage.size for stage in todo if stage.name.startswith(_TRAININGS)]
    peak = max((size for size in weights if not math.isnan(size)), default=0.0) * _CHECKPOINTS
    place = next(folder for folder in (workdir.absolute(), *workdir.absolute().parents) if folder.is_dir())
    return [
        f"To do: {len(todo)} of {len(stages)} stages.",
        time,
        f"Disk: {_megabytes(_sum(stage.size for stage in todo))} and some small files; checkpoints take up to "
        f"{_megabytes(peak)} more while a network trains; {_megabytes(float(shutil.disk_usage(place).free))} are free.",
    ]


def _sum(values: Iterable[float]) -> float:
    """The sum of the known values; nan if none is known."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) if known else math.nan


def _megabytes(size: float) -> str:
    return "small" if math.isnan(size) else f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
