"""A small phantom shared by all tests of this folder, and a factory of single views."""

from pathlib import Path

import pytest

from chexseg_jax.phantom import View, make


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "tree"
    return make(out, train=60, valid=40, test=80, size=96, seed=3, processes=1)


@pytest.fixture
def view():
    """Factory of views with the given findings and no others."""

    def make_view(*findings: str, patient: int = 1, size: int = 128, lateral: bool = False, **more) -> View:
        rest = {"seed": 0, "split": "train", "study": 1, "number": 1, "ap": bool(patient % 2)} | more
        return View(patient=patient, findings=findings, size=size, lateral=lateral, **rest)

    return make_view
