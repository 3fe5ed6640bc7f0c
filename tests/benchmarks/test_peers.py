import subprocess
import sys
from pathlib import Path

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
