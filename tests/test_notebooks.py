"""The notebooks run from top to bottom, each on a run of the whole chain."""

import json
import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
#: The encoder of the test's run, in the notebook's process.
TINY = f"""
import sys
sys.path[:0] = {[str(NOTEBOOKS.parent), str(NOTEBOOKS.parent / "tests")]}
from chexseg_jax.models import ENCODERS
from tiny import Tiny
ENCODERS["tiny"] = Tiny
"""


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tiny_run, tmp_path):
    """With `../work`, where its reader's runs are, made that of the test; its last picture is there."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(TINY))
    (tmp_path / "work").symlink_to(tiny_run[0])
    (tmp_path / "notebooks").mkdir()
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path / "notebooks"}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [o for o in outputs if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_small_outputs_of_a_phantom(path):
    """A code host shows them. What was seen on somebody's data is not published with the code."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert pictures
    assert all(len(picture) < 130_000 * 4 / 3 for picture in pictures)
    text = json.dumps([o for o in outputs if "image/png" not in o.get("data", {})])
    assert not re.search(r"Error|Warning|/home/|/root/|/tmp/", text)
    assert re.search("phantom|noise", text)  # what it was seen on
