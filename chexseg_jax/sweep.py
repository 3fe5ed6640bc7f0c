"""Tables: many runs, each a setting and a trial, over one folder of artifacts.

Runs share every stage that they have in common, like any runs in one work directory. A table adds the list of runs and
carries on when one of them fails.
"""

import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
from ml_collections import ConfigDict

from chexseg_jax.artifact import verify
from chexseg_jax.errors import (
    DamagedError,
    DiskError,
    InputError,
    MissingWeightsError,
    PartlyDoneError,
    first_line,
)
from chexseg_jax.experiment import Run
from chexseg_jax.files import Lock, written_aside
from chexseg_jax.paper.output import describe_absent, write_paper
from chexseg_jax.paper.results import Results
from chexseg_jax.processes import on_first
from chexseg_jax.progress import say
from chexseg_jax.report.runs import Made, open_run
from chexseg_jax.settings import Trial, trials

#: Outcomes of a run without a result, and the folders of their notes.
_FAILED, _ABSENT = "failed", "absent"


def run(config: ConfigDict, workdir: Path) -> Path:
    """Run a table's unfinished runs, then write its tables, figures and page from all finished ones.

    Several processes may run one table, each with its own `config.shard`; shared stages are computed once. The last
    process to end finds all runs finished and writes the whole table. A run that fails is reported with its traceback
    and the next one starts; the same command tries it again. So it does with a run that needs ImageNet's weights where
    there are none, but such a run is no failure: the table names it as absent.

    Args:
      config: made by configs/table1.py, table2.py or label_efficiency.py.
      workdir: see `experiment.run`.

    Returns:
      The table's folder below `workdir/runs`: `report.html`, `tables/`, `figures/`, and `failed/` and `absent/`, one
      file for each run that failed or is absent.

    Raises:
      PartlyDoneError: at the end if some runs failed.
      InputError: at the end if all runs failed; at once for a wrong shard or grid, or if all runs would be absent.
    """
    planned = trials(config)
    mine = of_shard(planned, config.shard)
    table = Run.open(config, workdir, [trial.config(config) for trial in planned])
    folder = on_first(open_run, workdir, table.config)
    shard = f", shard {config.shard} has {len(mine)}" if len(mine) < len(planned) else ""
    say(f"{config.name}: {len(planned)} runs{shard}")
    finished = on_first(finished_runs, table, mine)
    todo = [trial for trial in mine if trial not in finished]
    failed: dict[str, str] = {}
    start = time.monotonic()
    for done, trial in enumerate(todo):
        left = len(todo) - done
        minutes = (time.monotonic() - start) / max(done, 1) * left / 60
        estimate = f", about {minutes:.0f} minutes" if done else ""
        say(f"{config.name}: {left} of {len(mine)} runs to go{estimate}; now {trial.name}")
        kind, reason = _attempt(_single(table, trial), trial.name)
        if kind:
            say(f"{config.name}: {trial.name} {kind}: {reason}")
        if kind == _FAILED:
            failed[trial.name] = reason
        on_first(_note_outcome, folder, trial, kind, reason)
    absent = on_first(_write, folder, table, planned)
    for line in describe_absent(absent):
        say(f"{config.name}: {line}")
    if failed:
        error = PartlyDoneError if len(failed) < len(mine) else InputError
        raise error(f"{len(failed)} of {len(mine)} runs failed: {'; '.join(_grouped(failed))}")
    return folder


def of_shard(planned: list[Trial], text: str) -> list[Trial]:
    """The runs of shard `i/n`, in order: of the runs that train equally long, every n-th from the i-th.

    Raises:
      InputError: for anything but i/n with 1 <= i <= n.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise InputError(
            f"config.shard={text!r} must be i/n with 1 <= i <= n, such as 1/2 and 2/2 for two processes"
        )

    def length(trial: Trial) -> tuple:
        return trial.setting.count, trial.setting.experts, trial.setting.clock, trial.setting.p > 0

    mine = set(sorted(planned, key=length)[int(index) - 1 :: int(count)])
    return [trial for trial in planned if trial in mine]


def finished_runs(table: Run, planned: list[Trial]) -> dict[Trial, Made]:
    """The artifacts of the runs whose model and scores exist, by the names that today's code and inputs give them.

    Raises:
      DamagedError: for scores that are not what was written.
    """
    finished = {}
    for trial in planned:
        try:
            made = _single(table, trial).plan()
        except InputError:  # an input is missing: the run itself reports it
            continue
        if made.model.is_dir() and made.scores.is_dir():
            verify(made.scores)
            finished[trial] = made
    return finished


def _single(table: Run, trial: Trial) -> Run:
    return replace(table, config=trial.config(table.config))


def _attempt(one: Run, name: str) -> tuple[str, str]:
    """Make a run; return ("", ""), or `_FAILED` or `_ABSENT` and the reason."""
    try:
        on_first(one.plan)  # missing inputs fail here, not after hours
        one.segmentation()
    except MissingWeightsError as error:
        return _ABSENT, str(error)
    except DiskError:
        raise  # the next run would meet the same
    except Exception as error:
        shared = isinstance(error, InputError) and not isinstance(error, DamagedError)
        if jax.process_count() > 1 and not shared:
            raise  # the other processes did not fail, and would wait for this one
        if isinstance(error, InputError):
            return _FAILED, str(error)
        traceback.print_exc()
        return _FAILED, f"{type(error).__name__}: {first_line(error)}"
    return "", ""


def _note(folder: Path, trial: Trial, kind: str) -> Path:
    return folder / kind / f"{trial.name}.txt"


def _note_outcome(folder: Path, trial: Trial, kind: str, reason: str) -> None:
    """Record why a run has no result, for the final report, or that it has one."""
    for other in {_FAILED, _ABSENT} - {kind}:
        _note(folder, trial, other).unlink(missing_ok=True)
    if kind:
        with written_aside(_note(folder, trial, kind)) as file:
            file.write(reason)


def _write(folder: Path, table: Run, planned: list[Trial]) -> dict[Trial, str]:
    """Write the table from the finished runs; return the absent ones, each with its reason."""
    lock = Lock(folder / ".lock")  # two shards may end together
    lock.wait()
    try:
        finished = finished_runs(table, planned)
        for trial in finished:  # some by another command, after they failed here
            _note_outcome(folder, trial, "", "")
        results = Results.load({trial: made.scores for trial, made in finished.items()})
        missing, absent = {}, {}
        for trial in (trial for trial in planned if trial not in finished):
            failure, absence = _note(folder, trial, _FAILED), _note(folder, trial, _ABSENT)
            if absence.exists():
                absent[trial] = absence.read_text()
            else:
                missing[trial.name] = failure.read_text() if failure.exists() else "not run yet"
        write_paper(folder, table.config, table.data.sources, table.data.test, results, missing, absent)
    finally:
        lock.release()
    return absent


def _grouped(failed: Mapping[str, str]) -> list[str]:
    """One entry a reason, with the runs that failed for it."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(runs)}: {reason}" for reason, runs in names.items()]
