"""examples/slurm, with a scheduler that only records: what is started, and when it enters the queue again."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "launch.sbatch"


def submit(folder, code, *arguments, **variables):
    """Run the script as a job; `code` is that of the program. Returns its exit code and the recorded commands."""
    for name, result in (("srun", code), ("scontrol", 0)):
        stub = folder / name
        stub.write_text(f'#!/bin/sh\necho {name} "$@" >> "{folder}/log"\nexit {result}\n')
        stub.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", **variables}
    done = subprocess.run(["bash", SCRIPT, *arguments], env=environment, check=False)
    return done.returncode, (folder / "log").read_text().splitlines()


def test_a_run_that_the_warning_stopped_enters_the_queue_again(tmp_path):
    code = 128 + signal.SIGUSR1  # see tests/test_errors.py
    assert submit(tmp_path, code, "--config=configs/semi.py:p=0.9") == (
        code,
        ["srun python launch.py --config=configs/semi.py:p=0.9", "scontrol requeue 7"],
    )


@pytest.mark.parametrize("code", [0, 2])
def test_what_is_finished_or_wrong_does_not(code, tmp_path):
    assert submit(tmp_path, code, "--config=x") == (code, ["srun python launch.py --config=x"])


@pytest.mark.parametrize(
    ("variables", "shard"),
    [
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MAX": "4"}, "2/4"),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "3", "SHARDS": "4"}, "3/4"),
    ],
)
def test_a_task_of_an_array_is_a_shard(variables, shard, tmp_path):
    _, commands = submit(tmp_path, 0, "--config=x", **variables)
    assert commands == [f"srun python launch.py --config=x --config.shard={shard}"]


def test_the_warning_is_the_signal_that_the_script_expects():
    assert re.search(r"^#SBATCH --signal=USR1@\d+$", SCRIPT.read_text(), re.MULTILINE)
