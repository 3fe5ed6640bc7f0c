import os
import subprocess
import sys
from pathlib import Path

import jax

from benchmarks.peers import table

ROOT = Path(__file__).parents[2]


def test_ratios_are_to_ours_of_the_same_group_by_medians():
    seconds = {
        ("float32", "ours"): [1.0, 9.0, 2.0],
        ("float32", "theirs"): [5.0, 6.0, 5.5],
        ("bfloat16", "ours"): [0.5],
        ("bfloat16", "theirs"): [0.25],
    }
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(seconds)[2:]]
    assert cells == [
        ["float32, ours", "2", "1 to 9", "1.00"],
        ["float32, theirs", "5.5", "5 to 6", "2.75"],
        ["bfloat16, ours", "0.5", "0.5 to 0.5", "1.00"],
        ["bfloat16, theirs", "0.25", "0.25 to 0.25", "0.50"],
    ]


def test_a_missing_peer_is_said_in_a_line():
    """With its packages out of sight, as in an environment without the extra."""
    program = (
        "import runpy, sys, importlib.metadata as m; real = m.version\n"
        "def version(name):\n"
        "    if name == 'grad-cam': raise m.PackageNotFoundError(name)\n"
        "    return '0' if name.startswith('torch') else real(name)\n"
        "m.version = version; sys.argv = sys.argv[1:]; sys.path.insert(0, 'benchmarks')\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", program, "benchmarks/gradcam.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: grad-cam is not installed; the peers come with: pip install -e '.[bench]'\n"


def test_ours_runs_in_another_environment_too(tmp_path):
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    done = _benchmark(tmp_path, "--also", other)
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| nothing")]
    version = f"jax {jax.__version__}, Python {sys.version_info[0]}.{sys.version_info[1]}"
    assert rows == ["nothing, ours", "nothing, theirs", f"nothing, ours, {version}"], done.stderr
    assert done.stderr.count("round 1 of 1") == 3


def test_an_interpreter_that_is_not_there_is_said_in_a_line(tmp_path):
    done = _benchmark(tmp_path, "--also", "nowhere/python")
    assert done.returncode == 2
    assert done.stderr == "error: --also nowhere/python: No such file or directory; give an interpreter\n"


def _benchmark(folder, *options):
    """A benchmark of doing nothing, once."""
    file = folder / "nothing.py"
    file.write_text(
        "from benchmarks.peers import compare, parser\n"
        "from chexseg_jax.errors import run_command\n"
        "side = lambda: ('cpu', lambda: None)\n"
        "sides = {('nothing', 'ours'): side, ('nothing', 'theirs'): side}\n"
        "run_command(lambda: compare(parser('').parse_args(), sides, title='Nothing', packages=()))\n"
    )
    command = [sys.executable, file, "--quick", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
