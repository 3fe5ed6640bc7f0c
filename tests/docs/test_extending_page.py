"""The code of docs/extending.md is that of test_extending.py, which runs it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(?:python|toml)\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.DOTALL)


def squeezed(text):
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_of_the_page_occurs_in_the_test(block):
    assert squeezed(block) in squeezed((ROOT / "tests" / "test_extending.py").read_text())


def test_the_page_shows_all_five_extensions():
    assert all(name in "".join(BLOCKS) for name in ("label_of", "PatchNet", "UNet", "layercam", "Memory"))
