"""Time a training from its start to its first step, with an empty and with a full compilation cache.

    python benchmarks/warm_start.py > benchmarks/results/warm_start_DEVICE.md

Runs `launch.py` on the classifier's configuration (DenseNet121 at laptop scale, on a small phantom made beforehand),
from the start of the process to the line that reports the compiled step, and stops it there.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import jax
import numpy as np

from chexseg_jax.errors import InputError, run_command
from chexseg_jax.progress import say
from chexseg_jax.report.tables import markdown

LAUNCH = Path(__file__).parents[1] / "launch.py"
SMALL = ["--config.phantom.train=32", "--config.phantom.valid=16", "--config.phantom.test=8"]


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of pairs of starts (3)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as workdir:
        _seconds_to_first_step(workdir, seed=0)  # makes the phantom and prepares it
        seconds: dict[str, list[float]] = {"cold": [], "warm": []}
        for pair in range(rounds):
            shutil.rmtree(Path(workdir) / "xla_cache")
            for state, seed in (("cold", 2 * pair + 1), ("warm", 2 * pair + 2)):
                seconds[state].append(_seconds_to_first_step(workdir, seed=seed))
                say(f"{state}: {seconds[state][-1]:.1f} s")
    medians = {state: float(np.median(values)) for state, values in seconds.items()}
    device = jax.devices()[0].device_kind
    print(f"# To the first step, DenseNet121\n\n{date.today()}, {device}, jax {jax.__version__}.\n")
    cold = medians["cold"]
    rows = [[state, f"{median:.1f}", f"{median / cold:.3f}"] for state, median in medians.items()]
    print("\n".join(markdown(["compilation cache", "seconds", "of cold"], rows)))


def _seconds_to_first_step(workdir: str, *, seed: int) -> float:
    command = [sys.executable, LAUNCH, f"--config=configs/classifier.py:seed={seed}", f"--workdir={workdir}"]
    start = time.monotonic()
    with subprocess.Popen([*command, *SMALL], cwd=LAUNCH.parent, stderr=subprocess.PIPE, text=True) as run:
        lines = []
        for line in run.stderr:
            lines.append(line)
            if "compiled in" in line:
                seconds = time.monotonic() - start
                run.kill()
                return seconds
    raise InputError(f"the training did not start: {lines[-1].strip() if lines else 'no output'}")


if __name__ == "__main__":
    run_command(main)
