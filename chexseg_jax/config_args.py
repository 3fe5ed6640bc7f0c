"""The command line's `--config=FILE:key=value,...` and `--config.x.y=value`: typed, and refused in one line.

`ml_collections.config_flags` hands everything after the file's colon to `get_config(arg)` as one string; `parse` turns
it into typed values. `parse_flags` finds the file and turns the errors of the flags into `InputError`.
"""

import ast
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from chexseg_jax.errors import InputError

#: The package's own configurations; a link to the repository's `configs/` in a checkout, copies in a wheel.
CONFIGS = Path(__file__).with_name("configs")

Value = float | int | str | bool


@dataclass(frozen=True)
class Argument:
    """An argument of a configuration.

    Attributes:
      default: its type is the argument's; False makes a switch.
      meaning: one line for `CONFIG:help`.
      values: the closed list of a string argument's values, with the default first.
      within: the closed interval of a float argument.
    """

    default: Value
    meaning: str = ""
    values: tuple[str, ...] = ()
    within: tuple[float, float] | None = None

    @classmethod
    def one_of(cls, meaning: str, *values: str) -> "Argument":
        """A string argument with a closed list of values; the first is the default."""
        return cls(values[0], meaning, values)

    def describe(self, key: str) -> str:
        """Such as `init=chexpert|moco`, `p=0.9 in [0, 1]`, or `smoke` for a switch."""
        if self.values:
            return f"{key}={'|'.join(self.values)}"
        if self.within:
            return f"{key}={self.default:g} in [{self.within[0]:g}, {self.within[1]:g}]"
        return key if self.default is False else f"{key}={self.default!r}"


class Help(Exception):
    """A configuration was asked for `help`; the text lists its arguments."""


def parse(arg: str | None, **known: Argument | Value) -> ConfigDict:
    """Parse `key=value,key=value`; each value takes the type of the key's default.

    A comma ends a value only before another `key=` or switch, so paths may hold commas. A switch is the bare name of a
    key that is false by default, and turns it on.

    Args:
      arg: the text after the config file's colon; None or "" gives the defaults.
      **known: the known keys; a plain value is a default.

    Returns:
      A locked ConfigDict with one entry per known key.

    Raises:
      InputError: for an unknown key (the known ones are listed) or a value of the wrong type or range.
      Help: for the bare word `help`.
    """
    arguments = {key: one if isinstance(one, Argument) else Argument(one) for key, one in known.items()}
    listed = f"the known ones, with their defaults: {', '.join(a.describe(k) for k, a in arguments.items())}"
    texts: dict[str, str] = {}
    switches = [key for key, argument in arguments.items() if argument.default is False]
    ends = "|".join([r"\w+=", *(rf"{switch}(?:,|$)" for switch in (*switches, "help"))])
    for part in re.split(f",(?={ends})", arg) if arg else []:
        key, equals, text = part.partition("=")
        if part == "help":
            raise Help(
                _table([(argument.describe(key), argument.meaning) for key, argument in arguments.items()])
            )
        if not equals and key in switches:
            text = "true"
        elif not equals:
            raise InputError(f"config argument {part!r} is not key=value; {listed}")
        if key not in arguments:
            raise InputError(f"unknown config argument {key!r}; {listed}")
        if key in texts:
            raise InputError(f"config argument {key!r} is given twice")
        texts[key] = text
    return ConfigDict({key: _value(key, texts.get(key), one) for key, one in arguments.items()}).lock()


def find_config(name: str) -> str:
    """The file of a configuration.

    Args:
      name: a path, or the name of a configuration such as `semi`, `semi.py` or `configs/semi.py`.

    Returns:
      The first that exists of: the path, also with `.py`; `configs/NAME.py` in the current folder; the package's own.
      `name` if none does.
    """
    stem = name.removeprefix("configs/").removesuffix(".py")
    own = [CONFIGS / f"{stem}.py"] if stem in _names() else []
    places = (Path(name), Path(f"{name}.py"), Path("configs", f"{stem}.py"), *own)
    return next((str(path) for path in places if path.is_file()), name)


def list_configs() -> str:
    """The package's own configurations, each with the first line of its docstring."""
    rows = [(name, header(CONFIGS / f"{name}.py").partition("\n")[0]) for name in _names()]
    return f"Configs; NAME:help lists the arguments of one:\n{_table(rows)}"


def header(file: str | Path) -> str:
    """The docstring of a configuration's file; outside a checkout, its commands are `chexseg run`."""
    text = ast.get_docstring(ast.parse(Path(file).read_text())) or ""
    if Path("launch.py").is_file():
        return text
    return re.sub(r"python launch\.py --config=configs/(\w+)\.py", r"chexseg run \1", text)


def _names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("[a-z]*.py") if path.stem != "base")


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"  {left:<{width}}  {right}".rstrip() for left, right in rows)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse absl's flags and the one of `config_flags`, called `config`.

    `CONFIG:help` prints the arguments and ends the program; so does a missing config, with the list of configs.

    Raises:
      InputError: for a wrong flag, setting or argument, in one line.
    """
    settings: Mapping[str, Any] = {}
    try:
        settings = _check_settings(argv)
        rest = flags.FLAGS(argv)
    except Help as text:
        file = _config_value(argv).partition(":")[0]
        print(
            f"{header(file)}\n\nArguments, after the colon; of several values, the first is the default:\n{text}"
        )
        sys.exit(0)
    except (
        MemoryError,
        RecursionError,
    ):  # Python's parser, which reads tuples; absl's search for a similar flag
        raise InputError("a flag is too long or nested too deeply; --help lists the flags") from None
    except (flags.Error, TypeError, ValueError) as error:  # the last two: from get_config
        raise InputError(_flag_error(error, settings)) from None
    if rest[1:]:
        raise InputError(
            f"{rest[1]!r} is not a flag; arguments go after the colon, --config=configs/semi.py:p=0.9"
        )
    if flags.FLAGS.config is None:
        print(list_configs())
        raise InputError("--config is missing; give one of the configs listed, such as --config=semi:p=0.9")
    file = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not isinstance(flags.FLAGS.config, ConfigDict):
        raise InputError(f"{file}: no such config; give a file, or one of {', '.join(_names())}")
    if wrong := {"root", "scale"} & config_flags.get_override_values(flags.FLAGS["config"]).keys():
        name = Path(file).stem if Path(file).parent == CONFIGS else file
        raise InputError(
            f"--config.{min(wrong)}: other settings follow from it; give it after the colon, {name}:{min(wrong)}=..."
        )
    return rest


def with_files(arguments: Sequence[str]) -> list[str]:
    """Name the config's file, see `find_config`; a first argument that is no flag is the config."""
    found = list(arguments)
    if found and not found[0].startswith("-"):
        found[0] = f"--config={found[0]}"
    for i, argument in enumerate(found):
        flag, equals, value = argument.partition("=")
        if flag in ("--config", "-config"):
            value = value if equals else "".join(found[i + 1 : i + 2])
            name, colon, arg = value.partition(":")
            found[i : i + 1 + (not equals)] = [f"{flag}={find_config(name)}{colon}{arg}"]
            break
    return found


def _config_value(argv: list[str]) -> str:
    """The value of `--config` on the command line; "" without one."""
    given = re.search(r"^--?config[=\n](.*)", "\n".join(argv), re.MULTILINE)
    return given[1] if given else ""


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
    file = _config_value(argv)
    config = flags.FLAGS["config"].parser.parse(file) if names and file else None
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


def _value(key: str, text: str | None, argument: Argument) -> Value:
    if text is None:
        return argument.default
    if argument.values and text not in argument.values:
        raise InputError(f"config argument {key}={text!r} must be one of {', '.join(argument.values)}")
    match argument.default:
        case bool():
            if text.lower() not in ("true", "false"):
                raise InputError(f"config argument {key}={text!r} must be true or false")
            return text.lower() == "true"
        case int() | float():
            number = _number(key, text, type(argument.default))
            if argument.within and not argument.within[0] <= number <= argument.within[1]:  # also refuses nan
                low, high = argument.within
                raise InputError(f"config argument {key}={text} is outside [{low:g}, {high:g}]")
            return number
    return text


def _number(key: str, text: str, kind: type) -> float | int:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"config argument {key}={text!r} must be of type {kind.__name__}") from None
