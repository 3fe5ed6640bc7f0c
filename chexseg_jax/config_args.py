"""The command line's `--config=FILE:key=value,...` and `--config.x.y=value`: typed, and refused in one line.

`ml_collections.config_flags` hands everything after the file's colon to `get_config(arg)` as one string; `parse` turns
it into typed values. `parse_flags` turns the errors of the flags into `InputError`.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from chexseg_jax.errors import InputError


@dataclass(frozen=True)
class OneOf:
    """A string argument with a closed list of values; the first is the default."""

    values: tuple[str, ...]

    def __init__(self, *values: str):
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Within:
    """A float argument in the closed interval [low, high]."""

    default: float
    low: float
    high: float


Argument = float | int | str | bool | OneOf | Within


def parse(arg: str | None, **defaults: Argument) -> ConfigDict:
    """Parse `key=value,key=value`; each value takes the type of the key's default.

    A comma ends a value only before another `key=` or switch, so paths may hold commas. A switch is the bare name of a
    key that is false by default, and turns it on.

    Args:
      arg: the text after the config file's colon; None or "" gives the defaults.
      **defaults: the known keys with a default each: bool, int, float, str, `OneOf` or `Within`.

    Returns:
      A locked ConfigDict with one entry per known key.

    Raises:
      InputError: for an unknown key (the known ones are listed) or a value of the wrong type or range.
    """
    texts: dict[str, str] = {}
    switches = [key for key, default in defaults.items() if default is False]
    ends = "|".join([r"\w+=", *(rf"{switch}(?:,|$)" for switch in switches)])
    for part in re.split(f",(?={ends})", arg) if arg else []:
        key, equals, text = part.partition("=")
        if not equals and key in switches:
            text = "true"
        elif not equals:
            raise InputError(f"config argument {part!r} is not key=value; {_known(defaults)}")
        if key not in defaults:
            raise InputError(f"unknown config argument {key!r}; {_known(defaults)}")
        if key in texts:
            raise InputError(f"config argument {key!r} is given twice")
        texts[key] = text
    values = {key: _value(key, texts.get(key), default) for key, default in defaults.items()}
    return ConfigDict(values).lock()


def parse_flags(argv: list[str]) -> list[str]:
    """Parse absl's flags and the one of `config_flags`, called `config`.

    Raises:
      InputError: for a wrong flag, setting or argument, in one line.
    """
    settings: Mapping[str, Any] = {}
    try:
        settings = _check_settings(argv)
        rest = flags.FLAGS(argv)
    except (
        MemoryError,
        RecursionError,
    ):  # Python's parser, which reads tuples; absl's search for a similar flag
        raise InputError("a flag is too long or nested too deeply; --help lists the flags") from None
    except (flags.Error, TypeError, ValueError) as error:  # the last two: from get_config
        raise InputError(_flag_error(error, settings)) from None
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    if rest[1:]:
        raise InputError(
            f"{rest[1]!r} is not a flag; arguments go after the colon, --config=configs/semi.py:p=0.9"
        )
    if not isinstance(flags.FLAGS.config, ConfigDict):
        raise InputError(f"{file}: no such config; see configs/")
    if wrong := {"root", "scale"} & config_flags.get_override_values(flags.FLAGS["config"]).keys():
        raise InputError(
            f"--config.{min(wrong)}: other settings follow from it; give it after the colon, {file}:{min(wrong)}=..."
        )
    return rest


def _flag_error(error: BaseException, settings: Mapping[str, Any]) -> str:
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    if own := [link for link in chain if isinstance(link, InputError)]:
        return str(own[-1])  # config_flags wraps the error of get_config in one of the same type
    if given := re.match(r"flag --config\.([^=]*)=(.*?): ", str(error), re.DOTALL):
        return f"--config.{given[1]}={given[2]!r} must be of type {type(settings[given[1]]).__name__}"
    return str(error)


def _check_settings(argv: list[str]) -> dict[str, Any]:
    """The settings of the file by dotted name, without those of the command line, if that has `--config.x.y`.

    Raises:
      InputError: for one that names no setting: config_flags would show Python's own errors.
    """
    names = [given[1] for a in argv if (given := re.match(r"--?(?:no)?config\.([^=]*)", a))]
    file = re.search(r"^--?config[=\n](.*)", "\n".join(argv), re.MULTILINE)
    config = flags.FLAGS["config"].parser.parse(file[1]) if names and file else None
    if not isinstance(config, ConfigDict):
        return {}
    settings = _settings(config)
    for name in names:
        if name in settings:
            continue
        if inner := [other for other in settings if other.startswith(f"{name}.")]:
            raise InputError(
                f"--config.{name}: is a section; give one of its settings, such as --config.{inner[0]}"
            )
        alike = [other for other in settings if other.rpartition(".")[2] == name.rpartition(".")[2]]
        close = difflib.get_close_matches(name, alike or [*settings], 1, cutoff=0 if alike else 0.6)
        hint = f"did you mean --config.{close[0]}? Arguments" if close else "arguments"
        raise InputError(f"--config.{name}: no such setting; {hint}, such as init=moco, go after the colon")
    return settings


def _settings(config: ConfigDict) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in config.items():
        inner = (
            {f"{name}.{k}": v for k, v in _settings(value).items()} if isinstance(value, ConfigDict) else {}
        )
        settings |= inner or {name: value}
    return settings


def _value(key: str, text: str | None, default: Argument) -> float | int | str | bool:
    match default:
        case OneOf(values):
            if text is None:
                return values[0]
            if text not in values:
                raise InputError(f"config argument {key}={text!r} must be one of {', '.join(values)}")
            return text
        case Within(value, low, high):
            number = value if text is None else _number(key, text, float)
            if not low <= number <= high:  # also refuses nan
                raise InputError(f"config argument {key}={text} is outside [{low:g}, {high:g}]")
            return number
        case bool():
            if text is None:
                return default
            if text.lower() not in ("true", "false"):
                raise InputError(f"config argument {key}={text!r} must be true or false")
            return text.lower() == "true"
        case int() | float():
            return default if text is None else _number(key, text, type(default))
        case _:
            return default if text is None else text


def _number(key: str, text: str, kind: type) -> float | int:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"config argument {key}={text!r} must be of type {kind.__name__}") from None


def _known(defaults: dict[str, Argument]) -> str:
    def describe(key: str, default: Argument) -> str:
        match default:
            case OneOf(values):
                return f"{key}={'|'.join(values)}"
            case Within(value, low, high):
                return f"{key}={value:g} in [{low:g}, {high:g}]"
            case False:
                return key
            case _:
                return f"{key}={default!r}"

    known = ", ".join(describe(key, default) for key, default in defaults.items())
    return f"the known ones, with their defaults: {known}"
