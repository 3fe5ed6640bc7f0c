"""The device script, on a CPU and small; `TINY=1 JAX_PLATFORMS=cpu benchmarks/on_gpu.sh` is the long form."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_step_leaves_a_report_named_after_the_device(tmp_path):
    environment = os.environ | {"TINY": "1", "PYTHON": sys.executable, "OUT": str(tmp_path)}
    command = [ROOT / "benchmarks" / "on_gpu.sh", "dilated"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(tmp_path / "on_gpu_cpu.md")
    report = (tmp_path / "on_gpu_cpu.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith(("| 3x3", "| depthwise"))]
    assert len(rows) == 4 * 2 * 3
    assert "ended with" not in report
    assert "depthwise, rate 36" in (tmp_path / "on_gpu_cpu.log").read_text()
