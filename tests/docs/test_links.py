"""Relative links, and paths of the repository named in code, lead to files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    text = page.read_text()
    paths = re.findall(r"\b((?:configs|benchmarks|tests|chexseg_jax)/[\w/]+\.\w+)", text)
    modules = [name.replace(".", "/") for name in re.findall(r"python -m ([\w.]+)", text)]
    # In configs/FILE.py the name stands for any.
    assert not [path for path in paths if not re.search(r"/[A-Z]+\b", path) and not (ROOT / path).is_file()]
    assert not [
        module for module in modules if not ((ROOT / module).is_dir() or (ROOT / f"{module}.py").is_file())
    ]


def test_the_readme_is_short_and_has_both_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < 900
    lines = text.splitlines()
    assert "pip install -e . && python launch.py --config=configs/semi.py:p=0.9" in lines
    assert "pip install -e '.[test]' && pytest" in lines
