"""What tells runs of the chain apart: a setting and a trial; and how a table lists them."""

import itertools
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from chexseg_jax.data.chexpert import parse_policy
from chexseg_jax.errors import InputError

#: As tables and legends name them.
PSEUDO_TITLES = {"cam": "CAM", "irnet": "IRNet"}
INIT_TITLES = {"random": "random", "imagenet": "ImageNet", "moco": "MoCo-CXR", "chexpert": "CheXpert"}


class Setting(NamedTuple):
    """What a table varies: share of expert examples, initialisation, pseudo-masks (with p = 1 "") and their number."""

    p: float
    init: str
    pseudo: str
    count: int

    @classmethod
    def of(cls, p: float, init: str, pseudo: str, count: int) -> "Setting":
        """With p = 1 there are no pseudo-masks, whatever is said of them."""
        p = float(p)  # a run is named by its values: 0 and 0.0 would be two
        return cls(p, init, pseudo, count) if p < 1 else cls(1.0, init, "", 0)

    @property
    def title(self) -> str:
        """Such as `p=0.9,cam,100,chexpert`."""
        masks = (self.pseudo, self.count) if self.pseudo else ()
        return ",".join(map(str, (f"p={self.p:g}", *masks, self.init)))

    @property
    def words(self) -> str:
        """As a person says it: `semi-supervised, p = 0.9, 100 CAM pseudo-masks, CheXpert`."""
        kind = (
            "fully supervised" if self.p == 1 else "weakly supervised" if self.p == 0 else "semi-supervised"
        )
        share = f"p = {self.p:g}" if 0 < self.p < 1 else ""
        masks = f"{self.count} {PSEUDO_TITLES[self.pseudo]} pseudo-masks" if self.pseudo else ""
        return ", ".join(filter(None, (kind, share, masks, f"{INIT_TITLES[self.init]} encoder")))


class Trial(NamedTuple):
    """One run of a table: what sets it apart."""

    setting: Setting
    number: int

    @property
    def name(self) -> str:
        """Such as `p=0.9,cam,100,chexpert,trial=0`: of its record, and in progress lines."""
        return f"{self.setting.title},trial={self.number}"


def trials(config: ConfigDict) -> list[Trial]:
    """A table's runs in order: its grid, and for `weak_count` the weak models with as many pseudo-masks.

    Expert masks alone (p = 1) stand once for all pseudo-masks.

    Args:
      config: `name`, `grid` (lists of `p`, `init`, `pseudo`, `count`), `weak_count` (0 for none), `trials`.

    Raises:
      InputError: for a value that no run can have, or lists that the table has no rows and columns for.
    """
    grid = config.grid
    one = ("init", "count") if config.name == "table1" else ("p",)
    for key, known in {"init": INIT_TITLES, "pseudo": PSEUDO_TITLES}.items():
        if wrong := set(grid[key]) - set(known):
            raise InputError(f"config.grid.{key}: {sorted(wrong)} is none of {', '.join(known)}")
    if not all(isinstance(p, int | float) and 0 <= p <= 1 for p in grid.p):
        raise InputError(f"config.grid.p={tuple(grid.p)}: probabilities lie within [0, 1]")
    if not all(isinstance(count, int) and count > 0 for count in (*grid.count, config.trials)):
        raise InputError(
            "config.grid.count and config.trials: numbers of pseudo-masks and of trials are whole and begin at 1"
        )
    if config.weak_count < 0:
        raise InputError(f"config.weak_count={config.weak_count}: begins at 0, which is none")
    for key, values in grid.items():
        if not values or (key in one and len(values) > 1):
            wanted = "one value" if key in one else "a value"
            raise InputError(f"config.grid.{key}={tuple(values)}: {config.name} needs {wanted} there")
    if config.name == "table2" and 1 in grid.p:
        raise InputError("config.grid.p: table2 compares pseudo-masks, and with p = 1 there are none")
    settings = list(itertools.product(grid.p, grid.init, grid.pseudo, grid.count))
    if config.weak_count:
        settings += itertools.product((0.0,), grid.init, grid.pseudo, (config.weak_count,))
    settings = dict.fromkeys(Setting.of(*setting) for setting in settings)
    return [Trial(setting, number) for number in range(config.trials) for setting in settings]


#: Settings with a closed list of values.
_CHOICES = {
    "init": tuple(INIT_TITLES),
    "pseudo": ("", *PSEUDO_TITLES),  # "" with p = 1
    "trunk_init": ("", "chexpert", "imagenet"),
    "data.views": ("frontal", "lateral", "both"),
    "imagenet.stride_on": ("conv1", "conv2"),
    "pseudo_masks.threshold": ("tuned", "otsu"),
    "moco.start": ("random", "imagenet"),
}
#: Settings that are numbers from some least one on.
_LEAST = {
    "moco.queue": 1,
    "seed": 0,
    "split_seed": 0,
    "trial": 0,
    "refreshes": 0,
    "scores.bootstrap": 1,
    "data.size": 32,
}
#: The same, of any section that has it.
_LEAST_OF_SECTIONS = {"batch_size": 1, "steps": 1, "checkpoint_every": 1}


def check(config: ConfigDict) -> None:
    """Refuses what a flag such as `--config.init=imagnet` can set, and no stage would notice in time.

    Raises:
      InputError: naming the setting.
    """
    for path, known in _CHOICES.items():
        if (value := _at(config, path)) is not None and value not in known:
            raise InputError(f"config.{path}={value!r} is none of {', '.join(filter(None, known))}")
    if "data" in config:
        parse_policy(config.data.uncertainty)
    if not 0 <= config.get("p", 1) <= 1:
        raise InputError(f"config.p={config.p}: a probability lies within [0, 1]")
    least = _LEAST | ({"pseudo_count": 1} if config.get("p", 1) < 1 else {})
    least |= {
        f"{section}.{key}": low
        for section in config
        if section != "profile"  # whose `steps` are words
        for key, low in _LEAST_OF_SECTIONS.items()
    }
    for path, low in least.items():
        if (value := _at(config, path)) is not None and value < low:
            raise InputError(f"config.{path}={value}: begins at {low}")
    if "segmentation" in config and config.segmentation.model != (
        model := f"deeplabv3plus_{config.encoder.model}"
    ):
        raise InputError(
            f"config.segmentation.model={config.segmentation.model!r} has another encoder than {model}: choose by "
            "encoder=resnet18|resnet50 behind the colon"
        )
    for section in config:
        for path in (f"{section}.dtype", f"{section}.options.dtype"):
            if (dtype := _at(config, path)) not in (None, "float32", "bfloat16"):
                raise InputError(f"config.{path}={dtype!r} is none of float32, bfloat16")
    for section in ("classifier", "encoder", "trunk", "moco"):
        if (epochs := _at(config, f"{section}.epochs")) is not None and epochs <= 0:
            raise InputError(f"config.{section}.epochs={epochs}: more than 0")
    if "irnet" in (config.get("pseudo"), *(_at(config, "grid.pseudo") or ())) and "irnet" in config:
        # Its maps are at a quarter of the size, and a pair's pixels lie up to the radius apart to either side.
        size, radius = config.data.size, config.irnet.radius
        if size % 4 or size < (least := 8 * radius - 4):
            wanted = "a multiple of 4" if size % 4 else f"at least {least} with config.irnet.radius={radius}"
            raise InputError(f"config.data.size={size}: for IRNet {wanted}")
    for path, wanted, why in (
        ("trunk.model", "resnet50", "is IRNet's trunk"),
        (
            "moco.model",
            _at(config, "encoder.model"),
            "is the segmentation's encoder: choose by encoder= behind the colon",
        ),
    ):
        if wanted and (value := _at(config, path)) not in (None, wanted):
            raise InputError(f"config.{path}={value!r}: {wanted} {why}")
    for setting, needs, section in (
        (config.get("init") == "moco", "init=moco", "moco"),
        (config.get("pseudo") == "irnet", "pseudo=irnet", "irnet"),
        (_at(config, "moco.start") == "imagenet", "start=imagenet", "imagenet"),
    ):
        if setting and section not in config:
            raise InputError(
                f"{needs} brings settings of its own: give it behind the colon, configs/{config.name}.py:{needs}"
            )


def _at(config: ConfigDict, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, ConfigDict) else None
    return config


def single(config: ConfigDict, trial: Trial) -> ConfigDict:
    """The configuration of one of a table's runs, as semi.py, weak.py and full.py would give it."""
    setting = trial.setting
    left_out = {"grid", "weak_count", "trials", "shard"}
    left_out |= set() if setting.init == "moco" else {"moco"}
    left_out |= set() if setting.pseudo == "irnet" else {"trunk_init", "trunk", "irnet", "walk"}
    kept = {key: value for key, value in config.items() if key not in left_out}
    own = {
        "p": setting.p,
        "init": setting.init,
        "pseudo": setting.pseudo,
        "pseudo_count": setting.count,
        "trial": trial.number,
    }
    return ConfigDict(kept | own)
