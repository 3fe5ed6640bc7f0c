"""Test that a table killed again and again ends with the same bytes as an uninterrupted one.

    python benchmarks/killed_table.py > benchmarks/results/killed_table.md

Run `configs/table1.py:smoke` in two work directories: one uninterrupted, one killed (SIGKILL) at random moments and
restarted, then run to its end. All files in `tables/` and `figures/`, and `report.html`, must be equal.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import jax

from chexseg_jax.report.tables import markdown

COMMAND = [sys.executable, "launch.py", "--config=configs/table1.py:smoke"]


def main() -> None:
    """Run, kill and compare; exit with 1 if anything differs, or if fewer kills happened than requested."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--kills", type=int, default=10, help="number of kills")
    options.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        whole, cut = Path(scratch) / "whole", Path(scratch) / "cut"
        start = time.monotonic()
        subprocess.run([*COMMAND, f"--workdir={whole}"], check=True, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        rng = random.Random(arguments.seed)
        rows = []
        for number in range(1, arguments.kills + 1):
            # Startup repeats and the rest shrinks, so a start runs for less than its share of the whole on average.
            after = rng.uniform(5, 5 + 1.5 * seconds / arguments.kills)
            doing = _run_and_kill(cut, after)
            if doing is None:
                break
            rows.append([str(number), f"{after:.1f}", doing])
            print(rows[-1], file=sys.stderr, flush=True)
        subprocess.run([*COMMAND, f"--workdir={cut}"], check=True, stderr=subprocess.DEVNULL)
        ours, theirs = _outputs(whole), _outputs(cut)
        differing = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    print(f"# A table killed {len(rows)} times\n")
    where = f"{date.today()}, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"{where}: `configs/table1.py:smoke`, {seconds:.0f} s.\n")
    print("\n".join(markdown(["kill", "seconds after the start", "what it was doing"], rows)))
    verdict = (
        f"differ: {', '.join(differing)}"
        if differing
        else "equal those of an uninterrupted run, byte for byte"
    )
    print(f"\nAfterwards the {len(ours)} files below `tables/`, `figures/` and `report.html` {verdict}.")
    if len(rows) < arguments.kills:
        print(f"It finished before kill {len(rows) + 1} of {arguments.kills}.")
    sys.exit(bool(differing) or len(rows) < arguments.kills)


def _run_and_kill(workdir: Path, after: float) -> str | None:
    """Start the table, kill it, and return its last line of progress; None if it had finished."""
    with tempfile.TemporaryFile("w+") as log:
        run = subprocess.Popen([*COMMAND, f"--workdir={workdir}"], stderr=log, start_new_session=True)
        try:
            if code := run.wait(timeout=after):
                raise subprocess.CalledProcessError(code, run.args)
            return None
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)  # the process and its children
            run.wait()
        log.seek(0)
        lines = [line.strip() for line in log if line[:2].isdigit()]
    return lines[-1].partition(" ")[2] if lines else "starting"


def _outputs(workdir: Path) -> dict[str, bytes]:
    (folder,) = (workdir / "runs").glob("table1*")
    kept = [*(folder / "tables").iterdir(), *(folder / "figures").iterdir(), folder / "report.html"]
    return {path.name: path.read_bytes() for path in kept}


if __name__ == "__main__":
    main()
