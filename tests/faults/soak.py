"""Run small tables in one process for half an hour: open files, threads and memory must not grow.

    python tests/faults/soak.py --minutes 30 > benchmarks/results/soak.md

Each round is the table of `small.py` with another seed, so that everything is drawn, trained, scored and reported
anew, in an empty work directory. After a round the process counts its open files, its threads and its memory, without
what the allocator keeps for later. The medians of the last quarter of the rounds may exceed those of the second
quarter by no file, no thread and 5 % of the memory.
"""

import argparse
import contextlib
import ctypes
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import kill

GROWTH = {"open files": 0.0, "threads": 0.0, "memory, MB": 0.05}


def main() -> None:
    """Print a table of ten rounds; exit with 1 if something grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chexseg-soak-") as cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        del os.environ["XLA_FLAGS"]  # of `kill`: here many steps are run, after few compilations
        sys.exit(soak(options.minutes))


def soak(minutes: float) -> bool:
    """Print the table; return whether something grew."""
    kill.import_all()
    rounds, start = [], time.monotonic()
    while time.monotonic() - start < 60 * minutes or len(rounds) < 4:
        with tempfile.TemporaryDirectory(prefix="chexseg-soak-") as workdir:
            make_table(Path(workdir), seed=len(rounds))
        rounds.append(counts())
        print(f"{(time.monotonic() - start) / 60:.1f} min: {rounds[-1]}", file=sys.stderr, flush=True)
    grown = growth(rounds)
    print(f"# A soak of {minutes:g} minutes\n\n{date.today()}: {len(rounds)} tables in one process\n")
    print(f"| round | {' | '.join(GROWTH)} |\n| ---: | " + " | ".join("---:" for _ in GROWTH) + " |")
    for number in sorted({round(i * (len(rounds) - 1) / 9) for i in range(10)}):
        print(f"| {number + 1} | " + " | ".join(f"{rounds[number][name]:.0f}" for name in GROWTH) + " |")
    print("\nLast quarter less second quarter, medians: ", end="")
    print(", ".join(f"{name} {value:+.1%}" for name, value in grown.items()))
    return any(grown[name] > most for name, most in GROWTH.items())


def make_table(workdir: Path, *, seed: int) -> None:
    """Run the small table on a phantom of its own."""
    import small

    from chexseg_jax import sweep

    config = small.get_config("table")
    config.seed = config.phantom.seed = seed
    with (workdir / "log.txt").open("w") as log, contextlib.redirect_stderr(log):
        sweep.run(config, workdir)


def counts() -> dict[str, float]:
    """What this process holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "memory, MB": int(status["VmRSS"].split()[0]) / 1024,
    }


def growth(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The relative growth of each median from the second quarter of the rounds to the last."""
    quarter = len(rounds) // 4

    def median(name: str, some: Sequence[dict[str, float]]) -> float:
        return statistics.median(counted[name] for counted in some)

    return {
        name: median(name, rounds[-quarter:]) / median(name, rounds[quarter : 2 * quarter]) - 1
        for name in GROWTH
    }


if __name__ == "__main__":
    main()
