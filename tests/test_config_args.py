import contextlib
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.config_args import Argument, Help, parse
from chexseg_jax.errors import InputError

ROOT = Path(__file__).parents[1]

KNOWN = {
    "p": Argument(0.9, "probability", within=(0.0, 1.0)),
    "init": Argument.one_of("initialisation", "chexpert", "random"),
    "seed": 0,
    "lr": 0.5,
    "root": "",
    "on": True,
}


@pytest.mark.parametrize("arg", [None, ""])
def test_no_argument_gives_the_defaults(arg):
    assert parse(arg, **KNOWN).to_dict() == {
        "p": 0.9,
        "init": "chexpert",
        "seed": 0,
        "lr": 0.5,
        "root": "",
        "on": True,
    }


def test_values_take_the_type_of_their_default():
    args = parse("p=1,init=random,seed=7,lr=2,root=/a,b/c,on=false", **KNOWN)
    assert args.to_dict() == {"p": 1.0, "init": "random", "seed": 7, "lr": 2.0, "root": "/a,b/c", "on": False}
    assert isinstance(args.p, float)
    assert isinstance(args.lr, float)


@pytest.mark.parametrize(
    ("arg", "told"),
    [
        (
            "q=1",
            "unknown config argument 'q'; the known ones, with their defaults: p=0.9 in [0, 1], init=chexpert|random",
        ),
        ("p", "not key=value"),
        ("p=1.2", "p=1.2 is outside [0, 1]"),
        ("p=nan", "p=nan is outside"),
        ("p=half", "p='half' must be of type float"),
        ("seed=1.5", "seed='1.5' must be of type int"),
        ("init=imagenet21k", "must be one of chexpert, random"),
        ("on=yes", "must be true or false"),
        ("p=1,p=0", "given twice"),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_it(arg, told):
    with pytest.raises(InputError) as error:
        parse(arg, **KNOWN)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arg", "smoke", "root"),
    [
        ("smoke", True, ""),
        ("root=/a,smoke", True, "/a"),
        ("smoke,root=/a,smoker", True, "/a,smoker"),
        ("smoke=false", False, ""),
        ("root=smoke", False, "smoke"),
    ],
)
def test_a_switch_is_a_bare_name(arg, smoke, root):
    assert parse(arg, smoke=False, root="").to_dict() == {"smoke": smoke, "root": root}


@pytest.mark.parametrize("arg", ["help", "p=0.5,help"])
def test_help_lists_every_argument_with_its_default_and_meaning(arg):
    with pytest.raises(Help) as text:
        parse(arg, **KNOWN)
    rows = [line.split("  ", 2) for line in str(text.value).splitlines()]
    assert [row[1] for row in rows[:3]] == ["p=0.9 in [0, 1]", "init=chexpert|random", "seed=0"]
    assert [row[2].strip() for row in rows[:2]] == ["probability", "initialisation"]
    assert len(rows) == len(KNOWN)


@pytest.mark.parametrize(
    ("place", "command"),
    [("checkout", "python launch.py --config=configs/semi.py:p"), (None, "chexseg run semi:p")],
)
def test_of_a_config_help_ends_the_program_with_its_header(
    place, command, command_line, monkeypatch, tmp_path, capsys
):
    """The commands of the header are those of a checkout only where there is one."""
    monkeypatch.chdir(ROOT if place else tmp_path)
    with pytest.raises(SystemExit) as end:
        command_line(f"--config={ROOT / 'configs/semi.py'}:help")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Semi-supervised segmentation: ")
    assert f"\n    {command}=0.9\n" in shown
    assert "  p=0.9 in [0, 1]  " in shown


@given(p=st.floats(0, 1), seed=st.integers(-(10**9), 10**9), root=st.text("abc/,. -", max_size=20))
def test_round_trip(p, seed, root):
    args = parse(f"seed={seed},root={root},p={p!r}", **KNOWN)
    assert (args.p, args.seed, args.root) == (p, seed, root)


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused_in_our_words(text):
    with contextlib.suppress(InputError):
        parse(text, **KNOWN)


@pytest.fixture
def table(command_line):
    """The configuration of `--config=configs/table1.py:smoke` and more flags."""
    return partial(command_line, f"--config={ROOT / 'configs/table1.py'}:smoke")


def test_settings_are_flags(table):
    more = ("--config.segmentation.steps=7", "--config.grid.p=(0, 1)", "--noconfig.segmentation.augment")
    config = table(*more)
    assert (config.segmentation.steps, config.grid.p, config.segmentation.augment) == (7, (0, 1), False)


def test_a_flag_that_is_too_long_to_compare_is_refused(table):
    with pytest.raises(InputError, match="a flag is too long"):
        table("--config&" + "x" * 9000)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("segmentation.stepz=3", "no such setting; did you mean --config.segmentation.steps? Arguments"),
        ("segmentatoin.steps=3", "no such setting; did you mean --config.segmentation.steps? Arguments"),
        ("kind.x=3", "no such setting; did you mean --config.kind? Arguments"),
        ("learning_rate=3", "no such setting; did you mean --config."),
        ("recipe=plus", "no such setting; arguments, such as init=moco, go after the colon"),
        ("grid.p[0]=3", "no such setting; did you mean --config.grid.p?"),
        ("segmentation.=3", "no such setting; did you mean"),
        ("segmentation={}", "is a section; give one of its settings, such as --config.segmentation."),
        ("segmentation.steps=abc", "--config.segmentation.steps='abc' must be of type int"),
        ("segmentation.steps=1.5", "--config.segmentation.steps='1.5' must be of type int"),
        ("p=a: b", "--config.p='a' must be of type float"),
        ("segmentation.augment=maybe", "must be of type bool"),
        ("grid.p=(0, 1" + "{" * 3000, "nested too deeply"),
        ("segmentation.steps", "Missing value for flag --config.segmentation.steps"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(table, argument, told):
    with pytest.raises(InputError) as error:
        table(f"--config.{argument}")
    assert told in str(error.value)
    assert f"--config.{argument.partition('=')[0]}" in str(error.value) or "nested" in told
    assert "\n" not in str(error.value)
