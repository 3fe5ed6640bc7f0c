"""The rooms of the package, and the imports between them (docs/architecture.md describes them)."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "chexseg_jax"

GROUND = {"errors", "files", "progress", "processes", "streams"}
NETWORKS = GROUND | {"data", "models"}
TRAINED = NETWORKS | {"training", "saved_model", "saliency", "artifact"}
#: Each room (a folder, or a file of the top level) and the rooms that it may import. `__main__.py` files are doors:
#: they belong to no room, no room may import them, and they may import any room.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "progress": set(),
    "streams": set(),
    "files": {"errors"},
    "processes": {"errors", "progress"},
    "config_args": {"errors"},
    "data": GROUND,
    "phantom": GROUND | {"data"},
    "models": GROUND,
    "saliency": {"models"},
    "irnet": GROUND | {"models"},
    "exchange": GROUND | {"data"},
    "evaluation": GROUND | {"data"},
    "training": NETWORKS,
    "saved_model": NETWORKS | {"training"},
    "artifact": GROUND,
    "sources": GROUND | {"data", "phantom", "artifact"},
    "pseudo": TRAINED | {"irnet"},
    "stages": TRAINED | {"evaluation"},
    "report": GROUND | {"data", "evaluation", "training", "saliency", "artifact", "sources", "pseudo"},
    "settings": GROUND | {"data", "models", "pseudo"},
    "predict": GROUND | {"data", "saved_model", "artifact", "__init__"},
    "package": GROUND | {"data", "models", "saved_model"},
    "experiment": TRAINED | {"pseudo", "report", "settings", "sources", "stages"},
    "paper": GROUND | {"data", "evaluation", "report", "settings", "sources", "pseudo"},
    "sweep": GROUND | {"artifact", "experiment", "paper", "report", "settings"},
    "dry_run": GROUND | {"artifact", "config_args", "experiment", "pseudo", "report", "settings", "sweep"},
    "run": GROUND | {"artifact", "config_args", "dry_run", "experiment", "settings", "sweep"},
    # The command `chexseg`: a door, which names the others without importing them.
    "__main__": set(),
    # `chexseg_jax.restore`, imported when it is first used.
    "__init__": {"saved_model"},
}


def module_of(path: Path) -> str:
    """chexseg_jax/data/images.py is `chexseg_jax.data.images`, a folder's __init__.py the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    """The package's own modules that a file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from room import file` is an import of the file, `from file import name` of the file before it.
            both = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else node.module for name in both}
    return {name for name in names if name in FILES}


GRAPH = {module: imports(path) for module, path in FILES.items()}


def is_door(module: str) -> bool:
    return module.endswith(".__main__")


@pytest.mark.parametrize("module", [module for module in FILES if not is_door(module)])
def test_a_room_imports_only_the_rooms_it_may(module):
    room = room_of(module)
    wrong = {name for name in GRAPH[module] if room_of(name) not in ALLOWED[room] | {room}}
    assert not wrong, f"{module} imports {wrong}; {room} may import {sorted(ALLOWED[room])}"


def test_no_file_imports_a_door():
    assert not [(module, name) for module in FILES for name in GRAPH[module] if is_door(name)]


def test_every_room_is_in_the_table():
    assert {room_of(module) for module in FILES} == set(ALLOWED)


def test_no_cycle_between_files():
    # A package's __init__ and the files that it re-exports are one thing for this purpose.
    graph = {m: {n for n in names if n != "chexseg_jax"} for m, names in GRAPH.items() if m != "chexseg_jax"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"cycle: {' -> '.join(error.args[1])}")


def test_no_cycle_between_rooms():
    rooms: dict[str, set[str]] = {room: set() for room in ALLOWED}
    for module, names in GRAPH.items():
        if not is_door(module) and module != "chexseg_jax":
            rooms[room_of(module)] |= {room_of(name) for name in names} - {room_of(module), "__init__"}
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        pytest.fail(f"cycle: {' -> '.join(error.args[1])}")


def test_stages_import_no_sibling():
    for module, names in GRAPH.items():
        if room_of(module) == "stages":
            assert not {name for name in names if room_of(name) == "stages"}, module


def test_the_table_allows_nothing_that_is_not_used():
    used: dict[str, set[str]] = {room: set() for room in ALLOWED}
    for module, names in GRAPH.items():
        if not is_door(module):
            used[room_of(module)] |= {room_of(name) for name in names}
    # The ground floor and the shared groups are open to all; single rooms in the table must be in use.
    for room, allowed in ALLOWED.items():
        assert not (allowed - used[room] - TRAINED - {"__init__"}), room


@pytest.mark.parametrize("path", sorted([*PACKAGE.rglob("*.py"), ROOT / "launch.py"]), ids=str)
def test_files_and_functions_are_short(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= (60 if path.name == "launch.py" else 400)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = node.body[0] if ast.get_docstring(node) else None
            docstring = text.end_lineno - text.lineno + 1 if text else 0
            body = lines[node.lineno - 1 : node.end_lineno]
            code = sum(bool(line.strip()) and not line.strip().startswith("#") for line in body) - docstring
            assert code <= 60, f"{path}: {node.name} has {code} lines of code"
