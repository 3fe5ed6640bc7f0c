"""How a process finds the others and its devices, and what it hears when the first one fails."""

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from chexseg_jax import processes
from chexseg_jax.errors import InputError, MissingWeightsError

ROOT = Path(__file__).parents[1]
#: The variables of a SLURM job with one task.
ALONE = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize("cluster", [{}, ALONE], ids=["no cluster", "one SLURM task"])
def test_a_single_process_has_all_devices(cluster):
    lines = (
        "import jax",
        "from chexseg_jax import processes",
        "processes.start()",
        "assert not jax.distributed.is_initialized()",
        "assert processes.on_first(divmod, 7, 2) == (3, 1)",
    )
    # A new interpreter: `start` must come before JAX touches a device.
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, env=os.environ | cluster)


def test_a_lone_process_of_two_that_slurm_announces_says_whom_it_waits_for():
    started = subprocess.Popen(
        [sys.executable, "-c", "from chexseg_jax import processes; processes.start()"],
        env=os.environ | ALONE | {"SLURM_NTASKS": "2"},
        stderr=subprocess.PIPE,
        text=True,
    )
    end = threading.Timer(60, started.kill)
    end.start()
    try:
        told = next((line for line in started.stderr if "waiting for" in line), "nothing")
    finally:
        end.cancel()
        started.kill()
        started.communicate()
    assert "the other 1 of 2 processes (SLURM_NTASKS=2); if there are none, start each with srun" in told


@pytest.mark.parametrize("cluster", [{}, {"SLURM_NTASKS": "1"}], ids=["no cluster", "within one SLURM task"])
def test_processes_that_jax_cannot_join_are_an_error(cluster):
    ran = subprocess.run(
        [sys.executable, "-c", "from chexseg_jax import processes; processes.start()"],
        # As Open MPI 5 sets it, without the variables that JAX reads.
        env=os.environ | cluster | {"OMPI_COMM_WORLD_SIZE": "8"},
        capture_output=True,
        text=True,
    )
    assert "InputError: one of 8 processes, which JAX cannot join under this Open MPI by itself" in ran.stderr


PICTURE = str(ROOT / "docs/images/phantom_run.png")
PREDICT = f"lambda: predict.main(['--checkpoint=x', '--out=x', {PICTURE!r}])"


@pytest.mark.parametrize(
    ("platform", "command"),
    [
        ("cuda", "processes.start"),
        ("nonsense", PREDICT),
    ],
)
def test_a_device_that_is_not_there_is_one_line(platform, command):
    imports = "from chexseg_jax import errors, processes; from chexseg_jax.predict import __main__ as predict"
    program = f"{imports}; errors.run_command({command})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"JAX_PLATFORMS": platform, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"error: JAX_PLATFORMS={platform}: JAX has no such device here (" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("environment", "own"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, None),
        ({"CUDA_VISIBLE_DEVICES": "3", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, [0]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_STEP_TASKS_PER_NODE": "1"}, [0, 1]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_STEP_TASKS_PER_NODE": "2,1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, [0, 1]),
        (
            {
                "CUDA_VISIBLE_DEVICES": "0,1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            },
            None,
        ),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, None),
        ({}, None),
    ],
)
def test_each_process_uses_its_own_gpus(environment, own):
    assert processes.own_devices(environment) == own


@pytest.mark.parametrize("kind", [InputError, MissingWeightsError])
def test_missing_weights_are_missing_in_all_processes(kind, monkeypatch):
    values = {}
    service = SimpleNamespace(
        key_value_set_bytes=values.__setitem__, blocking_key_value_get_bytes=lambda key, _: values[key]
    )

    def work():
        raise kind("none")

    monkeypatch.setattr(processes, "_service", lambda: service)
    monkeypatch.setattr(processes, "_calls", itertools.repeat(0))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process, message in enumerate(("none", f"process 0 ended with {kind.__name__}: none")):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with pytest.raises(kind, match=f"^{message}$") as error:
            processes.on_first(work)
        assert type(error.value) is kind
