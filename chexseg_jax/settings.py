"""The values that a configuration may have, and the runs of a table."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.data.chexpert import parse_policy
from chexseg_jax.errors import InputError
from chexseg_jax.pseudo import LABELLERS

#: Initialisations of the segmentation's encoder, as tables and legends name them.
INIT_TITLES = {
    "random": "random",
    "imagenet": "ImageNet",
    "moco": "MoCo-CXR",
    "chexpert": "CheXpert",
    "imported": "imported",
}


class Setting(NamedTuple):
    """What a table varies.

    Attributes:
      p: probability of an expert example.
      init: initialisation of the encoder.
      pseudo: labeller; "" at p = 1.
      count: number of pseudo-masks; at p = 1 that of the mixture whose number of steps it takes, or 0.
      experts: number of expert images, those for validation included; 0 for all.
      clock: `epochs` over the images of its own sets, as published, or as many `steps` as 0 < p < 1 has.
    """

    p: float
    init: str
    pseudo: str
    count: int  # type: ignore[assignment]  # hides tuple.count
    experts: int = 0
    clock: str = "epochs"

    @classmethod
    def of(
        cls, p: float | int, init: str, pseudo: str, count: int, experts: int = 0, clock: str = "epochs"
    ) -> "Setting":
        """A setting without what makes no difference: at p = 1 the pseudo-masks, at 0 < p < 1 the clock."""
        p = float(p)  # the value is part of a run's name, where 0 and 0.0 would differ
        if p == 1:
            pseudo, count = "", count if clock == "steps" else 0
        return cls(p, init, pseudo, count, experts, "epochs" if 0 < p < 1 else clock)

    @property
    def title(self) -> str:
        """Such as `p=0.9,cam,100,chexpert`."""
        masks = (self.pseudo, self.count) if self.pseudo else ()
        experts = (f"experts={self.experts}",) if self.experts else ()
        clock = ("clock=steps",) if self.clock == "steps" else ()
        return ",".join(map(str, (f"p={self.p:g}", *masks, self.init, *experts, *clock)))

    @property
    def words(self) -> str:
        """Human-readable description: `semi-supervised, p = 0.9, 100 CAM pseudo-masks, CheXpert encoder`."""
        kind = (
            "fully supervised" if self.p == 1 else "weakly supervised" if self.p == 0 else "semi-supervised"
        )
        share = f"p = {self.p:g}" if 0 < self.p < 1 else ""
        masks = f"{self.count} {LABELLERS[self.pseudo].title} pseudo-masks" if self.pseudo else ""
        experts = f"{self.experts} expert images" if self.experts else ""
        clock = "as many steps as 0 < p < 1" if self.clock == "steps" else ""
        encoder = f"{INIT_TITLES[self.init]} encoder"
        return ", ".join(filter(None, (kind, share, masks, encoder, experts, clock)))


#: The kinds of tables, each with the lists of its grid that have one value, and that value where no other is possible.
TABLES: dict[str, dict[str, Any]] = {
    "table1": {"init": None, "count": None, "experts": 0},
    "table2": {"experts": 0, "clock": "epochs"},
    "label_efficiency": {"init": None, "pseudo": None, "count": None},
}


#: The settings of a single run that a table sets for each of its runs, and their values in other configurations.
SINGLE: dict[str, Any] = {
    "p": 1.0,
    "init": "chexpert",
    "pseudo": "",
    "pseudo_count": 0,
    "trial": 0,
    "experts": 0,
    "clock": "epochs",
}
#: The settings of tables alone, and their values in other configurations: the grid of runs, the pseudo-masks of its
#: weak models (0 for none), the trials, and shard i/n, see sweep.of_shard.
TABLE_ONLY: dict[str, Any] = {
    "grid": {
        **{"p": (), "init": (), "pseudo": tuple(LABELLERS), "count": ()},
        **{"experts": (0,), "clock": ("epochs",)},
    },
    "weak_count": 0,
    "trials": 3,
    "shard": "1/1",
}


class Trial(NamedTuple):
    """One run of a table."""

    setting: Setting
    number: int

    @property
    def name(self) -> str:
        """Such as `p=0.9,cam,100,chexpert,trial=0`, in progress lines and file names."""
        return f"{self.setting.title},trial={self.number}"

    def config(self, table: ConfigDict) -> ConfigDict:
        """The configuration of this run alone: the table's with the run's own values."""
        own = {
            "kind": "segmentation",
            "p": self.setting.p,
            "init": self.setting.init,
            "pseudo": self.setting.pseudo,
            "pseudo_count": self.setting.count,
            "trial": self.number,
            "experts": self.setting.experts,
            "clock": self.setting.clock,
        }
        return ConfigDict(dict(table.items()) | own)


def trials(config: ConfigDict) -> list[Trial]:
    """A table's runs in order: its grid, and the weak models with `weak_count` pseudo-masks, if any.

    Models of expert masks alone (p = 1) occur once for all labellers and counts.

    Args:
      config: `kind`, `grid` (lists of `p`, `init`, `pseudo`, `count`, `experts`, `clock`), `weak_count` (0 for none),
        `trials`.

    Raises:
      InputError: for a value out of range, or lists that the table has no rows and columns for.
    """
    grid = config.grid
    for key, known in {
        "init": [*INIT_TITLES],
        "pseudo": [*LABELLERS],
        "clock": ["epochs", "steps"],
    }.items():
        if wrong := sorted(set(grid[key]) - set(known)):
            raise InputError(f"config.grid.{key}={wrong[0]!r} must be one of {', '.join(known)}")
    if not all(isinstance(p, int | float) and 0 <= p <= 1 for p in grid.p):
        raise InputError(f"config.grid.p={tuple(grid.p)} must be probabilities in [0, 1]")
    for key, values, least in (
        ("grid.count", grid.count, 1),
        ("trials", [config.trials], 1),
        ("grid.experts", grid.experts, 0),
    ):
        if not all(isinstance(value, int) and value >= least for value in values):
            raise InputError(f"config.{key}={values} must be whole numbers of at least {least}")
    single = TABLES[config.kind]
    for key, values in grid.items():
        if not values or (key in single and len(values) > 1):
            number = "exactly one value" if key in single else "at least one value"
            raise InputError(f"config.grid.{key}={tuple(values)}: {config.kind} needs {number}")
        if (only := single.get(key)) is not None and values[0] != only:
            others = " or ".join(kind for kind, fixed in TABLES.items() if key not in fixed)
            raise InputError(
                f"config.grid.{key}={tuple(values)}: {config.kind} has {(only,)}; {others} takes other values"
            )
    if config.kind == "table2" and len(set(grid.p) - {1}) != 1:
        raise InputError(
            f"config.grid.p={tuple(grid.p)}: table2 needs exactly one value below 1, and may have 1"
        )
    combinations = list(
        itertools.product(grid.p, grid.init, grid.pseudo, grid.count, grid.experts, grid.clock)
    )
    if config.weak_count:
        combinations += itertools.product(
            (0.0,), grid.init, grid.pseudo, (config.weak_count,), (0,), ("epochs",)
        )
    settings = dict.fromkeys(Setting.of(*values) for values in combinations)
    return [Trial(setting, number) for number in range(config.trials) for setting in settings]


def imagenet_networks(config: ConfigDict) -> dict[str, str]:
    """The networks whose ImageNet weights a single run starts from, each with the argument that does without."""
    uses_classifier = config.kind == "classifier" or (config.kind == "segmentation" and config.p < 1)
    uses_moco = config.kind == "moco" or (config.kind == "segmentation" and config.init == "moco")
    networks = {}
    if uses_classifier and not config.imported.classifier and config.classifier.start == "imagenet":
        networks[config.classifier.model] = "classifier_start=random"
    if uses_moco and config.moco.start == "imagenet":
        networks[config.encoder.model] = "moco_start=random"
    if config.kind == "segmentation":
        if config.init == "chexpert" and config.encoder.start == "imagenet":
            networks[config.encoder.model] = "encoder_start=random"
        elif config.init == "imagenet":
            networks[config.encoder.model] = "another init"
        if config.pseudo:
            networks |= dict.fromkeys(LABELLERS[config.pseudo].imagenet(config), "another trunk")
    return networks


def trainings(config: ConfigDict) -> list[str]:
    """The sections of the networks that a single run or a table trains."""
    if config.kind in ("classifier", "moco"):
        return [config.kind]
    inits, kinds = (
        (config.grid.init, config.grid.pseudo) if config.kind in TABLES else (config.init, config.pseudo)
    )
    uses_pseudo = config.pseudo or (config.kind in TABLES and any(p != 1 for p in config.grid.p))
    uses_irnet = uses_pseudo and "irnet" in kinds
    used = {
        "classifier": uses_pseudo and not config.imported.classifier,
        "encoder": "chexpert" in inits,
        "moco": "moco" in inits,
        "trunk": uses_irnet and config.trunk_init == "chexpert",
        "irnet": uses_irnet,
        "segmentation": True,
    }
    return [name for name, is_used in used.items() if is_used]


def check(config: ConfigDict) -> None:
    """Refuse values that would fail only after hours, or be ignored in silence.

    Raises:
      InputError: naming the setting, its value and the rule.
    """
    if not config.root:  # the labels of other data are known when they are opened
        parse_policy(config.data.uncertainty)
    for path, rule, holds in _rules(config):
        value: Any = config
        for key in path.split("."):
            value = value[key]
        if not holds(value):
            raise InputError(f"config.{path}={value!r} must be {rule}")
    unused, instead = (
        (SINGLE, "a table's runs take their own from config.grid and config.trials; give one of these")
        if config.kind in TABLES
        else (
            TABLE_ONLY,
            f"applies to tables alone ({', '.join(TABLES)}); give the run's own config.p, config.trial, ...",
        )
    )
    given = config.to_dict()  # a locked ConfigDict, such as a command's, equals none that is not
    for key, unset in unused.items():
        if given[key] != unset:
            raise InputError(f"config.{key}={given[key]!r}: {instead}, or leave it out")
    inits = config.grid.init if config.kind in TABLES else (config.init,)
    if bool(config.imported.encoder) != ("imported" in inits):
        raise InputError(
            "config.imported.encoder and init=imported belong together: give encoder_from=PATH for both"
        )
    if config.imported.classifier and not (config.kind in TABLES or config.pseudo):
        raise InputError(
            f"classifier={config.imported.classifier}: no pseudo-masks are made that need one; leave it out"
        )
    if config.kind == "segmentation" and bool(config.pseudo) != (config.p < 1):
        raise InputError(
            f"config.p={config.p:g} with config.pseudo={config.pseudo!r}: give p to the configuration instead, as in "
            f"--config=configs/semi.py:p={config.p:g}"
        )
    if config.kind == "segmentation" and config.clock == "steps" and not config.pseudo_count:
        raise InputError("config.clock='steps' needs the mixture's config.pseudo_count, at least 1")
    networks = {
        "classifier": config.classifier.model,
        "encoder": config.encoder.model,
        "moco": config.encoder.model,
        "trunk": config.trunk.model,
        "segmentation": f"{config.segmentation.decoder}_{config.encoder.model}",
    }
    for section in trainings(config):
        if section in networks:
            models.create(networks[section], num_classes=1, **config[section].options)


Rule = tuple[str, str, Callable[[Any], bool]]

_TRAININGS = ("classifier", "encoder", "trunk", "moco", "irnet", "segmentation")


def _one_of(*values: str) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(filter(None, values))}", lambda value: value in values


def _at_least(least: int) -> tuple[str, Callable[[Any], bool]]:
    return f"at least {least}", lambda value: value >= least


def _rules(config: ConfigDict) -> list[Rule]:
    """(setting, rule in words, test)."""
    uses_irnet = "irnet" in (config.pseudo, *(config.grid.pseudo if config.kind in TABLES else ()))
    # A pair's pixels lie up to the radius apart, on a map of a quarter.
    least_size = 8 * config.irnet.radius - 4
    for_irnet: list[Rule] = [
        ("data.size", "a multiple of 4 for IRNet", lambda size: size % 4 == 0),
        ("data.size", f"at least {least_size} for config.irnet.radius", lambda size: size >= least_size),
    ]
    return [
        ("kind", *_one_of("segmentation", "classifier", "moco", *TABLES)),
        ("init", *_one_of(*INIT_TITLES)),
        ("pseudo", *_one_of("", *LABELLERS)),
        ("clock", *_one_of("epochs", "steps")),
        ("trunk_init", *_one_of("chexpert", "imagenet")),
        ("data.views", *_one_of("frontal", "lateral", "both")),
        ("imagenet.stride_on", *_one_of("conv1", "conv2")),
        ("pseudo_masks.degenerate", *_one_of("keep", "unknown")),
        ("p", "a probability in [0, 1]", lambda p: 0 <= p <= 1),
        *((name, *_at_least(0)) for name in ("seed", "split_seed", "trial", "experts", "weak_count")),
        ("skip_steps", *_at_least(0)),
        (
            "data.validation",
            "a share in (0, 1) or a whole number of images",
            lambda n: 0 < n < 1 or (n >= 1 and n % 1 == 0),
        ),
        ("scores.bootstrap", *_at_least(1)),
        *([("pseudo_count", *_at_least(1))] if config.pseudo and config.kind == "segmentation" else []),
        *((f"{name}.batch_size", *_at_least(1)) for name in ("walk", "cams", "scores")),
        ("walk.radius", *_at_least(2)),
        ("walk.exp_times", *_at_least(0)),
        *((name, *_at_least(32)) for name in ("data.size", "moco.size")),
        *_training_rules(config),
        *(for_irnet if uses_irnet else []),
    ]


def _training_rules(config: ConfigDict) -> list[Rule]:
    by_epochs = [name for name in _TRAININGS if name != "irnet"]
    queued = config.moco.batch_size
    return [
        *((f"{name}.start", *_one_of("random", "imagenet")) for name in _TRAININGS[:4]),
        ("trunk.model", *_one_of("resnet50")),
        *((f"{name}.batch_size", *_at_least(1)) for name in _TRAININGS),
        *((f"{name}.checkpoint_every", *_at_least(1)) for name in _TRAININGS),
        *((name, *_at_least(0)) for name in ("irnet.count", "segmentation.steps")),
        *((name, *_at_least(1)) for name in ("irnet.steps", "moco.queue", "moco.norm_group")),
        ("irnet.radius", *_at_least(2)),
        *((name, "more than 0", lambda value: value > 0) for name in ("walk.beta", "moco.temperature")),
        ("moco.crop", "a share in (0, 1]", lambda share: 0 < share <= 1),
        ("moco.key_momentum", "in [0, 1)", lambda share: 0 <= share < 1),
        *((f"{name}.epochs", "more than 0 and finite", lambda n: 0 < n < math.inf) for name in by_epochs),
        *(
            (f"{name}.learning_rate", "more than 0 and finite", lambda rate: 0 < rate < math.inf)
            for name in _TRAININGS[:5]
        ),
        (
            "segmentation.learning_rate",
            "0, for the published rule, or more",
            lambda rate: 0 <= rate < math.inf,
        ),
        (
            "moco.queue",
            f"a multiple of config.moco.batch_size={queued}",
            lambda queue: queue % queued == 0,
        ),
        *(
            (f"{name}.options.dtype", *_one_of("float32", "bfloat16"))
            for name in by_epochs
            if "dtype" in config[name].options
        ),
        ("irnet.dtype", *_one_of("float32", "bfloat16")),
    ]
