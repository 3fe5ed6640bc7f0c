"""Damage a finished work directory, one file at a time: each damage is noticed, or the result is unchanged.

    python tests/faults/flip.py --flips 500    # about 30 minutes on two cores

A bit is flipped, or the end cut off, in a random file: of the artifacts (models among them), of the records, of the
compilation cache, or of the checkpoints of a killed training. The command is then run again; after damage to the cache,
without the scores, so that it compiles. Records, which a finished run does not read, are read as a training would. An
outcome is *noticed* (exit code 2 and one line that names the file, or its folder), *unchanged* (the same reports and
scores), or *missed*.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import kill

#: What is damaged: each kind's files below the work directory.
KINDS = {
    "artifact": "artifacts/*/*.*",
    "model": "artifacts/*/variables/**/*",
    "records": "artifacts/*/*/*.array_record",
    "compilation cache": "xla_cache/*",
    "checkpoint": "artifacts/*.part/checkpoints/**/*",
}


def main() -> None:
    """Print counts by kind; exit with 1 if a damage was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=500, help="number of damages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", default="table", choices=kill.RUNS)
    options = parser.parse_args()
    kill.import_all()
    rng, counts, missed = random.Random(options.seed), Counter(), []
    with tempfile.TemporaryDirectory(prefix="chexseg-flip-") as scratch:
        workdir, sound, stopped = (Path(scratch) / name for name in ("work", "sound", "stopped"))
        kill.left_alone(options.run, workdir)
        shutil.copytree(workdir, sound, symlinks=True)
        stop_in_training(options.run, workdir)
        shutil.copytree(workdir, stopped, symlinks=True)
        for number in range(options.flips):
            kind = list(KINDS)[number % len(KINDS)]
            for at in ("artifacts", "runs", "xla_cache"):
                shutil.rmtree(workdir / at)
                shutil.copytree(
                    (stopped if kind == "checkpoint" else sound) / at, workdir / at, symlinks=True
                )
            files = [
                path for path in sorted(workdir.glob(KINDS[kind])) if path.is_file() and path.stat().st_size
            ]
            file = rng.choice(files)
            what = damage(file, rng)
            outcome = (read_records if kind == "records" else rerun)(options.run, workdir, sound, file, kind)
            counts[kind, outcome] += 1
            if outcome == "missed":
                missed.append(f"{file.relative_to(workdir)}: {what}")
            print(
                f"{number + 1}: {file.relative_to(workdir)}, {what}: {outcome}", file=sys.stderr, flush=True
            )
    print(
        f"# {options.flips} damages\n\n{date.today()}, `tests/faults/small.py:{options.run}`, seed {options.seed}\n"
    )
    print("| kind | noticed | unchanged | missed |\n| --- | ---: | ---: | ---: |")
    for kind in KINDS:
        print(
            f"| {kind} | "
            + " | ".join(str(counts[kind, x]) for x in ("noticed", "unchanged", "missed"))
            + " |"
        )
    for line in missed:
        print(f"- {line}")
    sys.exit(bool(missed))


def stop_in_training(run: str, workdir: Path) -> None:
    """Delete the last segmentation and what follows, and kill the run that makes it again at its second checkpoint."""
    last = max(workdir.glob("artifacts/segmentation-*"), key=lambda path: path.stat().st_mtime)
    shutil.rmtree(last)
    shutil.rmtree(workdir / "runs")
    for scores in workdir.glob("artifacts/scores-*"):
        if last.name in (scores / "artifact.json").read_text():
            shutil.rmtree(scores)
    child, log = kill.start(run, workdir)
    while not last.with_name(f"{last.name}.part").joinpath("checkpoints", "4").is_dir():
        if os.waitpid(child, os.WNOHANG)[0]:
            sys.exit(f"{run} ended before it could be killed:\n{log.read_text()[-3000:]}")
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def damage(file: Path, rng: random.Random) -> str:
    """Flip one bit or cut the end off; return what was done."""
    data = bytearray(file.read_bytes())
    if rng.random() < 0.3:
        length = rng.randrange(len(data))
        file.write_bytes(data[:length])
        return f"cut at {length} of {len(data)} bytes"
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    return f"bit {bit} of {8 * len(data)}"


def rerun(run: str, workdir: Path, sound: Path, file: Path, kind: str) -> str:
    """The outcome of running the command again."""
    if kind == "compilation cache":
        for scores in (workdir / "artifacts").glob("scores-*"):
            shutil.rmtree(scores)
    artifact = file.relative_to(workdir).parts[1]
    child, log = kill.start(run, workdir)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    if code == 2 and len(errors) == 1:
        return "noticed" if artifact in errors[0] else "missed"
    names = {path.name for path in (sound / "artifacts").glob("*") if path.name.startswith("scores-")}
    names |= {artifact.removesuffix(".part")} if kind == "checkpoint" else set()
    folders = [f"artifacts/{name}" for name in names] + [
        f"runs/{path.name}" for path in (sound / "runs").iterdir()
    ]
    other = [
        difference
        for at in folders
        for difference in kill.unequal(at, kill.contents(sound / at), kill.contents(workdir / at))
    ]
    if code or other:
        print(f"exit code {code}, {other}, {log.read_text()[-2000:] if code else ''}", file=sys.stderr)
    return "missed" if code or other else "unchanged"


def read_records(_run: str, workdir: Path, sound: Path, file: Path, _kind: str) -> str:
    """The outcome of reading all rows of the damaged file's column."""
    from chexseg_jax.data.records import Records
    from chexseg_jax.errors import DamagedError

    try:
        rows = Records.open(file.parent)[:]
    except DamagedError as error:
        return "noticed" if str(file) in str(error) or str(file.parent) in str(error) else "missed"
    theirs = Records.open(sound / file.parent.relative_to(workdir))[:]
    return "unchanged" if rows.tobytes() == theirs.tobytes() else "missed"


if __name__ == "__main__":
    main()
