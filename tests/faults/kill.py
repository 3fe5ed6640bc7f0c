"""Kill runs at random moments, resume them, and compare with runs that were left alone.

    python tests/faults/kill.py --kills 100    # about 10 minutes on two cores

The runs of `small.py` share a work directory and together have every stage. Each stage is killed (SIGKILL) about
`--kills` / (number of stages) times, at least five of 100, at random moments of it. Afterwards all artifacts and
reports must equal those of the uninterrupted runs, timings apart, and no process that a killed one had started may be
left.
"""

import argparse
import gc
import json
import os
import pickle
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np

# As in the suite: what is compiled matters here as little as how fast it is.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
ROOT = Path(__file__).parents[2]
RUNS = ("moco", "init_moco", "table")
_T = TypeVar("_T")
_STAGES = re.compile(r"^\d\d:\d\d:\d\d ([\w-]+): (making|done) ", re.M)


def main() -> None:
    """Print a table; exit with 1 if something differs, is left alive, or was killed less often than asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--runs", nargs="+", default=RUNS, choices=RUNS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chexseg-kill-") as scratch:
        whole, cut = Path(scratch) / "whole", Path(scratch) / "cut"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{scratch}/xla_cache"
        import_all()
        durations: dict[str, float] = {}
        for run in options.runs:
            for stage, seconds in left_alone(run, whole).items():
                durations[stage] = min(seconds, durations.get(stage, seconds))
        kills, orphans = kill_all(options.runs, cut, durations, options.kills, random.Random(options.seed))
        differences = compare(whole, cut)
    rows = "".join(f"| {stage} | {kills[stage]} |\n" for stage in durations)
    print(
        f"# {sum(kills.values())} kills\n\n{date.today()}, two cores, seed {options.seed}: {', '.join(options.runs)}\n"
    )
    print(f"| stage | kills |\n| --- | ---: |\n{rows}")
    print(f"Resumptions {sum(kills.values())}, differences {len(differences)}, orphans {orphans}.")
    for difference in differences:
        print(f"- {difference}")
    least = min(5, options.kills // len(durations))
    few = [stage for stage in durations if kills[stage] < least]
    sys.exit(bool(differences or orphans or few or sum(kills.values()) < options.kills))


def import_all() -> None:
    """Import once what every start needs; each start is a fork, in which JAX then begins anew."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    gc.disable()  # nor in the forks: they are short
    from chexseg_jax import experiment, sweep  # noqa: F401


def start(run: str, workdir: Path) -> tuple[int, Path]:
    """Start a run in a session of its own; return its process id and its log."""
    workdir.mkdir(exist_ok=True)
    log = workdir.parent / "log.txt"
    log.write_bytes(b"")
    if child := os.fork():
        return child, log
    os.setsid()
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["launch.py", f"--config=tests/faults/small.py:{run}", f"--workdir={workdir}"]
    code = 1
    try:
        runpy.run_path("launch.py", run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
    finally:
        sys.stderr.flush()
        os._exit(code)


def forked(function: Callable[..., _T], *arguments: object) -> Callable[[], _T]:
    """Call the function in a fork: this process has no threads then, and may be forked again.

    Returns:
      A function that waits for the fork, and returns what it returned.
    """
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)

        def wait() -> _T:
            with os.fdopen(reader, "rb") as answer:
                content = answer.read()
            if os.waitpid(child, 0)[1]:
                sys.exit(f"{function.__name__}{arguments} failed")
            return pickle.loads(content)

        return wait
    code = 1
    try:
        with os.fdopen(writer, "wb") as answer:
            pickle.dump(function(*arguments), answer)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def left_alone(run: str, workdir: Path) -> dict[str, float]:
    """Run to the end; return the seconds that each stage took."""
    child, log = start(run, workdir)
    began: dict[str, float] = {}
    seconds: dict[str, float] = {}
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        for stage, doing in _STAGES.findall(log.read_text()):
            if doing == "making":
                began.setdefault(stage, time.monotonic())
            else:
                seconds.setdefault(stage, time.monotonic() - began[stage])
        if ended:
            _check_end(status, run, log)
            return seconds
        time.sleep(0.005)


def _check_end(status: int, run: str, log: Path) -> None:
    if status:
        sys.exit(f"{run} ended with {os.waitstatus_to_exitcode(status)}:\n{log.read_text()[-3000:]}")


def kill_all(
    runs: Sequence[str], workdir: Path, durations: dict[str, float], wanted: int, rng: random.Random
) -> tuple[Counter, int]:
    """Kill each stage its share of times, then run everything to its end. Return kills by stage, and orphans.

    A stage that finishes before it has had its share is deleted and made again, and counts as half as long: compiled
    programs are there by now.
    """
    kills: Counter = Counter()
    share, orphans, missed = -(-wanted // len(durations)), 0, Counter()
    for run in runs:
        while True:
            child, log = start(run, workdir)
            killed = _watch(child, run, log, kills, share, durations, rng)
            orphans += _left_alive(child)
            if killed:
                kills[killed] += 1
                print(f"kill {kills.total()}: {killed}", file=sys.stderr, flush=True)
                continue
            made = {stage for stage, _ in _STAGES.findall(log.read_text())}
            again = [stage for stage in made if kills[stage] < share and missed[stage] < 3 * share]
            for stage in again:
                missed[stage] += 1
                durations[stage] /= 2
                for artifact in (workdir / "artifacts").glob(f"{stage}-????????????"):
                    shutil.rmtree(artifact)
            if not again:
                break
    return kills, orphans


def _watch(
    child: int,
    run: str,
    log: Path,
    kills: Counter,
    share: int,
    durations: Mapping[str, float],
    rng: random.Random,
) -> str | None:
    """Kill the run within the first stage that has not had its share, if it lasts until then; return that stage."""
    target, moment = None, 0.0
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            _check_end(status, run, log)
            return None
        seen = _STAGES.findall(log.read_text())
        stage = seen[-1][0] if seen and seen[-1][1] == "making" else None
        if stage != target:  # what is compiled already ends sooner
            target = stage
            moment = time.monotonic() + rng.uniform(0, 0.5 * durations.get(stage or "", 1.0))
        if target and kills[target] < share and time.monotonic() >= moment:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return target
        time.sleep(0.001)


def _left_alive(session: int) -> int:
    """The number of processes of a killed run that are still there after five seconds; they are killed."""
    for _ in range(50):
        alive = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                alive.append(int(stat.parent.name))
        if not alive:
            return 0
        time.sleep(0.1)
    for process in alive:
        os.kill(process, signal.SIGKILL)
    return len(alive)


def compare(whole: Path, cut: Path) -> list[str]:
    """What differs between two work directories, timings apart."""
    names = [{path.name for path in (at / "artifacts").iterdir()} for at in (whole, cut)]
    differences = [f"artifacts/{name}: only in one" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        both = [contents(at / "artifacts" / name) for at in (whole, cut)]
        differences += unequal(f"artifacts/{name}", *both)
    for folder in sorted((whole / "runs").iterdir()):
        both = [contents(at / "runs" / folder.name) for at in (whole, cut)]
        differences += unequal(f"runs/{folder.name}", *both)
    return differences


def unequal(name: str, ours: dict, theirs: dict) -> list[str]:
    """The names of what differs and, of text, the first line that does."""
    differences = []
    for key in sorted(ours | theirs):
        one, other = ours.get(key), theirs.get(key)
        if one == other:
            continue
        lines = [value if isinstance(value, list) else [] for value in (one, other)]
        first = next((pair for pair in zip(*lines, strict=False) if pair[0] != pair[1]), "")
        differences.append(f"{name}/{key} {first}"[:300])
    return differences


def contents(folder: Path) -> dict[str, object]:
    """Every file's content without what depends on the time; of variables, the arrays."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        parts = set(path.relative_to(folder).parts)
        # `files` holds the times of the phantom's files, each of which is drawn anew.
        if not path.is_file() or parts & {"tensorboard", "performance.json", "variables", "files"}:
            continue
        if path.name == "artifact.json":
            card = json.loads(path.read_text())
            found[name] = {key: card[key] for key in ("stage", "key", "versions")}
        elif path.name == "files.json":
            found[name] = {
                key: (size, digest) for key, (size, _, digest) in json.loads(path.read_text()).items()
            }
        elif path.name == "model.json":
            found[name] = {
                key: value for key, value in json.loads(path.read_text()).items() if key != "checksums"
            }
        elif path.suffix in (".md", ".html"):
            found[name] = _without_timings(path.read_text())
        else:
            found[name] = path.read_bytes()
    for variables in folder.glob("**/variables"):
        found[str(variables.relative_to(folder))] = _arrays(variables)
    return found


def _without_timings(text: str) -> list[str]:
    """The lines of a report without those of its table of costs, seconds and the work directory's name."""
    text = re.sub(r"base64,[^\"')]+", lambda picture: sha256(picture[0].encode()).hexdigest(), text)
    text = re.sub(r"\d+(\.\d+)? s\b|/[^\s`<>]+(?=/artifacts/)", "", text)
    # An artifact's seconds, and their sum.
    text = re.sub(r"(-[0-9a-f]{12}|together\*\*|together</strong>)(</th><td>| *\| *)[\d.]+", r"\1", text)
    lines = (re.sub(r"[ -]+", " ", line) for line in text.splitlines())
    return [line for line in lines if " x cpu" not in line and "images/s" not in line and line.strip("| :")]


def _arrays(folder: Path) -> list[tuple[str, bytes]]:
    import jax
    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore(folder)
    flat, _ = jax.tree.flatten_with_path(tree)
    return [(jax.tree_util.keystr(path), np.asarray(value).tobytes()) for path, value in flat]


if __name__ == "__main__":
    main()
