"""Whether a table that is killed again and again ends with the tables of one that was left alone, byte for byte.

    python benchmarks/killed_table.py > benchmarks/results/killed_table.md

`configs/table1.py:smoke` in two work directories: one run through, one killed (SIGKILL) at random moments and started
again, then run to its end. Everything below `tables/` and `figures/` must be the same, and `report.html` too.
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
    """Runs, kills, compares; exit code 1 where anything differs or it was killed less often than asked."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--kills", type=int, default=10, help="how many times it is killed")
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        whole, cut = Path(scratch) / "whole", Path(scratch) / "cut"
        start = time.monotonic()
        subprocess.run([*COMMAND, f"--workdir={whole}"], check=True, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        rng = random.Random(arguments.seed)
        rows = []
        for number in range(1, arguments.kills + 1):
            # What is left gets shorter with every start, so on average a start gets less than its share of the whole.
            after = rng.uniform(5, 5 + 1.5 * seconds / arguments.kills)
            doing = _killed(cut, after)
            if doing is None:
                break
            rows.append([str(number), f"{after:.1f}", doing])
            print(rows[-1], file=sys.stderr, flush=True)
        subprocess.run([*COMMAND, f"--workdir={cut}"], check=True, stderr=subprocess.DEVNULL)
        ours, theirs = _made(whole), _made(cut)
        differing = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    print(f"# A table killed {len(rows)} times\n")
    where = f"{date.today()}, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"{where}: `configs/table1.py:smoke`, {seconds:.0f} s.\n")
    print("\n".join(markdown(["kill", "seconds after the start", "what it was doing"], rows)))
    verdict = (
        f"differ: {', '.join(differing)}" if differing else "are those of a run left alone, byte for byte"
    )
    print(f"\nAfterwards the {len(ours)} files below `tables/`, `figures/` and `report.html` {verdict}.")
    if len(rows) < arguments.kills:
        print(f"It ended before the kill after that, of {arguments.kills} that were meant.")
    sys.exit(bool(differing) or len(rows) < arguments.kills)


def _killed(workdir: Path, after: float) -> str | None:
    """Starts the table, kills it, and gives its last line of progress; None where it ended before."""
    with tempfile.TemporaryFile("w+") as log:
        run = subprocess.Popen([*COMMAND, f"--workdir={workdir}"], stderr=log, start_new_session=True)
        try:
            if code := run.wait(timeout=after):
                raise subprocess.CalledProcessError(code, run.args)
            return None
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)  # and whom it started
            run.wait()
        log.seek(0)
        lines = [line.strip() for line in log if line[:2].isdigit()]
    return lines[-1].partition(" ")[2] if lines else "starting"


def _made(workdir: Path) -> dict[str, bytes]:
    (folder,) = (workdir / "runs").glob("table1*")
    kept = [*(folder / "tables").iterdir(), *(folder / "figures").iterdir(), folder / "report.html"]
    return {path.name: path.read_bytes() for path in kept}


if __name__ == "__main__":
    main()
