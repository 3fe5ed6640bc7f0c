"""The `:arg` grammar of `--config=configs/semi.py:p=0.9,init=chexpert`: typed by defaults, unknown keys refused.

`ml_collections.config_flags` hands everything after the file's colon to `get_config(arg)` as one string;
`parse` turns it into typed values.
"""

import re
from dataclasses import dataclass

from ml_collections import ConfigDict

from chexseg_jax.errors import InputError


@dataclass(frozen=True)
class OneOf:
    """A string argument with a closed list of values; the first is the default."""

    values: tuple[str, ...]

    def __init__(self, *values: str):
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Within:
    """A float argument inside the closed interval [low, high]."""

    default: float
    low: float
    high: float


Argument = float | int | str | bool | OneOf | Within


def parse(arg: str | None, **defaults: Argument) -> ConfigDict:
    """Reads `key=value,key=value`; each value takes the type of the key's default.

    A comma ends a value only before another `key=` or switch, so paths may hold commas. A switch is the bare name of a
    key that is false by default, and turns it on.

    Args:
      arg: the text after the config file's colon; None or "" gives the defaults.
      **defaults: the known keys with a default each: bool, int, float, str, `OneOf` or `Within`.

    Returns:
      A locked ConfigDict with one entry per known key.

    Raises:
      InputError: for a key that is not known (the known ones are listed) or a value that does not fit.
    """
    given: dict[str, str] = {}
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
        if key in given:
            raise InputError(f"config argument {key!r} is given twice")
        given[key] = text
    values = {key: _value(key, given.get(key), default) for key, default in defaults.items()}
    return ConfigDict(values).lock()


def _value(key: str, text: str | None, default: Argument) -> float | int | str | bool:
    match default:
        case OneOf(values):
            if text is None:
                return values[0]
            if text not in values:
                raise InputError(f"config argument {key}={text!r} is none of {', '.join(values)}")
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
                raise InputError(f"config argument {key}={text!r} is neither true nor false")
            return text.lower() == "true"
        case int() | float():
            return default if text is None else _number(key, text, type(default))
        case _:
            return default if text is None else text


def _number(key: str, text: str, kind: type) -> float | int:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"config argument {key}={text!r} is not of type {kind.__name__}") from None


def _known(defaults: dict[str, Argument]) -> str:
    def shown(key: str, default: Argument) -> str:
        match default:
            case OneOf(values):
                return f"{key}={'|'.join(values)}"
            case Within(value, low, high):
                return f"{key}={value:g} in [{low:g}, {high:g}]"
            case False:
                return key
            case _:
                return f"{key}={default!r}"

    return "the known ones, with their defaults: " + ", ".join(shown(k, d) for k, d in defaults.items())
