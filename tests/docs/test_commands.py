"""Every command of the README and the pages is one that the programs take: its flags, arguments and settings exist."""

import os
import re
import runpy
import shlex
from itertools import dropwhile
from pathlib import Path

import pytest

from chexseg_jax.__main__ import COMMANDS, command_of
from chexseg_jax.config_args import find_config
from chexseg_jax.errors import Parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Not ours, or not of the package: each is run by hand, by .ci/run, or by tests/faults.
OTHERS = ("pip", "pytest", "ruff", "mypy", "sphinx-build")
MODULES = {target.partition(":")[0].removesuffix(".__main__"): name for name, (target, _) in COMMANDS.items()}


def commands():
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split(" && "):
                    words = shlex.split(part, comments=True)
                    if words and words[0] not in OTHERS:
                        yield pytest.param(words, id=f"{page.name}: {part}")


class Parsed(Exception):
    """The arguments were accepted."""


@pytest.mark.parametrize("words", [*commands()])
def test_a_command_of_the_pages_is_accepted(words, monkeypatch):
    words = [*dropwhile(lambda word: re.match("[A-Z_]+=", word), words)]  # variables of the environment
    if words[:2] == ["python", "launch.py"]:
        words = ["chexseg", "run", *words[2:]]
    elif words[:2] == ["python", "-m"]:
        words = ["chexseg", MODULES[words[2].removeprefix("chexseg_jax.")], *words[3:]]
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
        return
    elif words[0].endswith(".sh"):
        assert os.access(ROOT / words[0], os.X_OK)
        return
    program, name, *rest = words
    assert program == "chexseg"
    if name == "run":
        check_configuration(rest)
        return
    parse = Parser.parse_args

    def parse_only(self, arguments):
        parse(self, arguments)
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_only)
    with pytest.raises(Parsed):
        command_of(name)(rest)


def check_configuration(words):
    """`chexseg run CONFIG --config.x.y=value`: the file, its arguments and the settings exist."""
    names = [word for word in words if not word.startswith("--config.")]
    named = next((word.removeprefix("--config=") for word in names), "")
    if not named or "NAME" in named or named.endswith(":help"):
        return
    file, _, arguments = named.partition(":")
    config = runpy.run_path(find_config(file))["get_config"](arguments or None)
    for setting in set(words) - set(names):
        key, _, _ = setting.removeprefix("--config.").partition("=")
        section = config
        for part in key.split("."):
            section = section[part]


def test_the_page_on_installing_lists_every_command():
    listed = re.findall(r"`chexseg (\w+)`", (ROOT / "docs/install.md").read_text())
    assert {*COMMANDS} <= {*listed}
