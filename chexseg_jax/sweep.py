"""Tables: many runs of the chain, each a setting and a trial, over one folder of artifacts.

Runs share every stage that they have in common, as any runs in one work directory do. What a table adds is the list
of runs, a record of each one that is finished, and the patience to go on where one fails.
"""

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
from filelock import FileLock
from ml_collections import ConfigDict

from chexseg_jax.artifact import VERSIONS
from chexseg_jax.errors import DamagedError, InputError, first_line
from chexseg_jax.experiment import Chain
from chexseg_jax.files import written_aside
from chexseg_jax.paper.output import write_paper
from chexseg_jax.paper.results import Results
from chexseg_jax.processes import on_first
from chexseg_jax.progress import say
from chexseg_jax.report.run import open_run
from chexseg_jax.settings import Trial, single, trials


def run(config: ConfigDict, workdir: Path) -> Path:
    """Makes what is missing of a table's runs, then its tables, figures and page from all that are finished.

    Several processes may run one table, each with its own `config.shard`: what two of them need, one makes. The last
    to end finds all runs finished, and writes the whole table. A run that fails is named, its trace shown, and the
    next one started; the same command tries it again.

    Args:
      config: made by configs/table1.py or table2.py.
      workdir: see `experiment.run`.

    Returns:
      The table's folder below `workdir/runs`: `report.html`, `tables/`, `figures/`, and `trials/`, one record a
      run that has ended.

    Raises:
      InputError: at the end, where runs failed; or at once for a shard or a grid that is none.
    """
    index, count = parse_shard(config.shard)
    planned = trials(config)
    config = ConfigDict({key: value for key, value in config.items() if key != "shard"})  # names no run
    chain = Chain.open(config, workdir)
    folder = on_first(open_run, workdir, chain.config)
    mine = planned[index - 1 :: count]
    shard = f", shard {index} of {count} has {len(mine)}" if count > 1 else ""
    say(f"{config.name}: {len(planned)} runs{shard}")
    failed: dict[str, str] = {}
    given = _given(chain, planned)
    todo = [trial for trial in mine if not on_first(read_record, folder, trial, chain.store, given[trial])]
    start = time.monotonic()
    for done, trial in enumerate(todo):
        left = len(todo) - done
        minutes = (time.monotonic() - start) / max(done, 1) * left / 60
        still = f", about {minutes:.0f} minutes" if done else ""
        say(f"{config.name}: {left} of {len(mine)} runs to go{still}; now {trial.name}")
        one = replace(chain, config=single(chain.config, trial))
        try:
            made = one.segmentation()
            record = one.given() | {"model": made.model.name, "scores": made.scores.name}
        except Exception as error:
            everywhere = isinstance(error, InputError) and not isinstance(error, DamagedError)
            if jax.process_count() > 1 and not everywhere:
                raise  # the others cannot be told to go on
            if isinstance(error, InputError):
                failed[trial.name] = str(error)
            else:
                traceback.print_exc()
                failed[trial.name] = f"{type(error).__name__}: {first_line(error)}"
        else:
            on_first(write_record, folder, trial, record)
        if trial.name in failed:
            say(f"{config.name}: {trial.name} failed: {failed[trial.name]}")
            on_first(write_failure, folder, trial, failed[trial.name])
    on_first(_write, folder, chain, _given(chain, planned))
    if failed:
        raise InputError(f"{len(failed)} of {len(mine)} runs failed: {'; '.join(_grouped(failed))}")
    return folder


def parse_shard(text: str) -> tuple[int, int]:
    """`2/3` -> (2, 3).

    Raises:
      InputError: for anything but i/n with 1 <= i <= n.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise InputError(
            f"config.shard={text!r} is not i/n with 1 <= i <= n, such as 1/2 and 2/2 for two processes"
        )
    return int(index), int(count)


def read_record(
    folder: Path, trial: Trial, store: Path, given: Mapping[str, str] | None
) -> dict[str, str] | None:
    """The artifacts of a finished run; None where it is not, they are gone, or `given` or a stage was another then."""
    path = folder / "trials" / f"{trial.name}.json"
    if given is None or not path.exists():
        return None
    made = json.loads(path.read_text())
    if made.get("stages") != VERSIONS:
        return None
    record = made["artifacts"]
    there = all((store / name).is_dir() for name in record.values())
    return record if there and given.items() <= record.items() else None


def write_record(folder: Path, trial: Trial, record: Mapping[str, str]) -> None:
    """Writes down that a run is finished, and what it made."""
    with written_aside(folder / "trials" / f"{trial.name}.json") as file:
        json.dump({"artifacts": record, "stages": VERSIONS}, file, indent=1)
    _failure(folder, trial).unlink(missing_ok=True)


def write_failure(folder: Path, trial: Trial, reason: str) -> None:
    """Writes down why a run failed, for whichever shard ends last."""
    with written_aside(_failure(folder, trial)) as file:
        file.write(reason)


def _failure(folder: Path, trial: Trial) -> Path:
    return folder / "trials" / f"{trial.name}.failed.txt"


def _given(chain: Chain, planned: list[Trial]) -> dict[Trial, dict[str, str] | None]:
    """`Chain.given` of each run; None where something is not there, as the run itself will say."""
    found: dict[tuple[str, str], dict[str, str] | None] = {}
    for trial in planned:
        kind = trial.setting.init, trial.setting.pseudo  # all that it depends on
        if kind not in found:
            try:
                found[kind] = replace(chain, config=single(chain.config, trial)).given()
            except InputError:
                found[kind] = None
    return {trial: found[trial.setting.init, trial.setting.pseudo] for trial in planned}


def _write(folder: Path, chain: Chain, given: Mapping[Trial, Mapping[str, str] | None]) -> None:
    with FileLock(folder / ".lock"):  # two shards may end together
        records = {trial: read_record(folder, trial, chain.store, inputs) for trial, inputs in given.items()}
        results = Results.load(
            chain.store, {(*trial,): record for trial, record in records.items() if record}
        )
        missing = {}
        for trial in (trial for trial, record in records.items() if not record):
            told = _failure(folder, trial)
            missing[trial.name] = told.read_text() if told.exists() else "not run yet"
        write_paper(folder, chain.config, chain.data.sources, chain.data.test, results, missing)


def _grouped(failed: Mapping[str, str]) -> list[str]:
    """One entry a reason, with the runs that it stopped."""
    names: dict[str, list[str]] = {}
    for name, reason in failed.items():
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(runs)}: {reason}" for reason, runs in names.items()]
