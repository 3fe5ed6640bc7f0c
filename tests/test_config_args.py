import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.config_args import OneOf, Within, parse
from chexseg_jax.errors import InputError

KNOWN = {
    "p": Within(0.9, 0.0, 1.0),
    "init": OneOf("chexpert", "random"),
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


@given(p=st.floats(0, 1), seed=st.integers(-(10**9), 10**9), root=st.text("abc/,. -", max_size=20))
def test_round_trip(p, seed, root):
    args = parse(f"seed={seed},root={root},p={p!r}", **KNOWN)
    assert (args.p, args.seed, args.root) == (p, seed, root)


@given(st.text(max_size=30))
def test_any_text_parses_or_is_refused_in_our_words(text):
    with contextlib.suppress(InputError):
        parse(text, **KNOWN)
