"""Damage a finished work directory, one file at a time: each damage is noticed, or the result is unchanged.

    python tests/faults/flip.py --flips 500    # about 15 minutes on two cores

A bit is flipped, or the end cut off, in a random file: of the artifacts (models among them), of the records, of the
compilation cache, or of the checkpoints of a killed training. The command is then run again, without the scores, so
that it looks at all that led to them. Records, which it does not read, are read as a training would. An outcome is
*noticed* (exit code 2 and one line that names the file, or its folder), *unchanged* (the same reports and scores), or
*missed*.
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
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import kill

_PROCESSES = 2
OUTCOMES = ("noticed", "unchanged", "missed")
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
    parser.add_argument("--run", default="init_moco", choices=kill.RUNS)
    options = parser.parse_args()
    kill.import_all()
    with tempfile.TemporaryDirectory(prefix="chexseg-flip-") as scratch:
        shards = [kill.forked(shard, options, k, Path(scratch) / str(k)) for k in range(_PROCESSES)]
        outcomes = [outcome for wait in shards for outcome in wait()]
    counts = Counter((kind, outcome) for kind, outcome, _ in outcomes)
    print(
        f"# {len(outcomes)} damages\n\n{date.today()}, `tests/faults/small.py:{options.run}`, seed {options.seed}\n"
    )
    print("| kind | noticed | unchanged | missed |\n| --- | ---: | ---: | ---: |")
    for kind in KINDS:
        print(f"| {kind} | " + " | ".join(str(counts[kind, outcome]) for outcome in OUTCOMES) + " |")
    missed = [what for _, outcome, what in outcomes if outcome == "missed"]
    print("".join(f"- {what}\n" for what in missed), end="")
    sys.exit(bool(missed))


def shard(options: argparse.Namespace, k: int, scratch: Path) -> list[tuple[str, str, str]]:
    """Every `_PROCESSES`th damage from the k-th: kind, outcome and what was damaged."""
    scratch.mkdir()
    workdir, sound, stopped = (scratch / name for name in ("work", "sound", "stopped"))
    kill.left_alone(options.run, workdir)
    shutil.copytree(workdir, sound, symlinks=True)
    stop_in_training(options.run, workdir)
    shutil.copytree(workdir, stopped, symlinks=True)
    outcomes = []
    for number in range(k, options.flips, _PROCESSES):
        rng, kind = random.Random(f"{options.seed}, {number}"), list(KINDS)[number % len(KINDS)]
        source = stopped if kind == "checkpoint" else sound
        for at in ("artifacts", "runs", "xla_cache"):
            shutil.rmtree(workdir / at, ignore_errors=True)
            if (source / at).exists():  # a single run has its folder only at the end
                shutil.copytree(source / at, workdir / at, symlinks=True)
        files = [path for path in sorted(workdir.glob(KINDS[kind])) if path.is_file() and path.stat().st_size]
        file = rng.choice(files)
        what = f"{file.relative_to(workdir)}: {damage(file, rng)}"
        if kind == "records":
            outcome = kill.forked(read_records, workdir, sound, file)()
        else:
            outcome = rerun(options.run, workdir, sound, file, kind)
        outcomes.append((kind, outcome, what))
        print(f"{number + 1}: {what}: {outcome}", file=sys.stderr, flush=True)
    return outcomes


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
    artifact = file.relative_to(workdir).parts[1]
    for scores in (workdir / "artifacts").glob("scores-*") if kind != "checkpoint" else ():
        if scores.name != artifact:
            shutil.rmtree(scores)
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
    other = kill.forked(differences, folders, workdir, sound)()
    if code or other:
        print(f"exit code {code}, {other}, {log.read_text()[-2000:] if code else ''}", file=sys.stderr)
    return "missed" if code or other else "unchanged"


def differences(folders: Sequence[str], workdir: Path, sound: Path) -> list[str]:
    """What differs between the sound folders and those of the work directory."""
    both = [(at, kill.contents(sound / at), kill.contents(workdir / at)) for at in folders]
    return [difference for one in both for difference in kill.unequal(*one)]


def read_records(workdir: Path, sound: Path, file: Path) -> str:
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
