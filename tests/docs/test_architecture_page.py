"""docs/architecture.md shows the table of rooms that test_architecture.py enforces."""

import re
from pathlib import Path

from test_architecture import ALLOWED, GROUND

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_page_has_the_table_of_rooms():
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    page = {
        room: {*re.findall(r"`(\w+)`", allowed)} | (GROUND if "ground floor" in allowed else set())
        for room, allowed in rows
    }
    assert page == ALLOWED


def test_the_files_that_the_page_names_exist():
    root = PAGE.parents[1]
    named = re.findall(r"`([\w/]+\.py)`", PAGE.read_text())
    assert len(named) > 30
    for name in named:
        assert any((place / name).exists() for place in (root, root / "chexseg_jax", root / "tests")), name
