"""The documentation's site: `sphinx-build -W -c docs . build/site`, from the repository's root.

The source folder is the root, so pages link to measurements and notebooks as on a code host. A page that
docs/index.md does not list is a warning, which `-W` turns into an error.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import chexseg_jax

project, author, release = "CheXseg-JAX", "The CheXseg-JAX authors", chexseg_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["CHANGELOG.md", "CONTRIBUTING.md", "docs/**.md", "benchmarks/results/*.md"]
exclude_patterns = ["build", "tests", "work", ".*"]

html_theme, html_title, html_show_copyright = "furo", f"CheXseg-JAX {release}", False
html_additional_pages = {"index": "redirect.html"}  # the site's address leads to docs/index.html
templates_path = ["templates"]
html_static_path, html_css_files = ["static"], ["tables.css"]

myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
default_role = "code"  # single backticks in docstrings, as in Markdown
napoleon_use_ivar, napoleon_use_rtype, napoleon_attr_annotations = True, False, False


def write_api(folder: Path) -> None:
    """Write a page for each room of the package: the docstrings of its files."""
    package = Path(chexseg_jax.__file__).parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for room in sorted(package.iterdir()):
        files = [room] if room.suffix == ".py" else sorted(room.glob("**/*.py"))
        names = [
            path.relative_to(package.parent).with_suffix("") for path in files if path.stem != "__main__"
        ]
        text = f"# {room.stem}\n"
        for name in names:
            module = ".".join(name.parts).removesuffix(".__init__")
            text += f"\n## `{module}`\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"
        if names and room.stem != "__init__":
            (folder / f"{room.stem}.md").write_text(text)


def shorten(
    _app: Any, _kind: str, _name: str, _object: Any, _options: Any, *parts: str | None
) -> list[str | None]:
    """Shorten the signature and the returned type; those of Linen modules lose the fields of the base class."""
    unused = (
        r"(, )?parent: .*_Sentinel.*(?=\))",
        r"jaxlib\._jax\.",
        r"<class 'jax\.numpy\.",
        r"(?<=float32)'>",
    )
    return [part and re.sub("|".join(unused), "", part) for part in parts]


def setup(app: Any) -> None:
    """Connect."""
    app.connect("autodoc-process-signature", shorten)


write_api(Path(__file__).parent / "api")
