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
