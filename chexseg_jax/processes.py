"""Several processes that run one program: how they find each other, and what one of them does for all.

Every process runs every line, on the same files. What must happen once goes through `on_first`.
"""

import itertools
import os
import pickle
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import jax
from jax._src.distributed import (
    global_state,
)  # the coordination service has no public name (Orbax does the same)

from chexseg_jax import progress
from chexseg_jax.errors import InputError, tell

_P, _T = ParamSpec("_P"), TypeVar("_T")

#: A stage may take days.
_PATIENCE_MS = 30 * 24 * 3600 * 1000
#: How long a process that failed stays, so that those who wait for it in `on_first` read why.
_FAREWELL_S = 3
#: Where clusters say how many processes there are. JAX would give one alone a single device, and shards of a table
#: within one job (`config.shard`, each a program of its own) a single port.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
#: Meetings of the processes are known by their number, which is the same on all processes.
_calls = itertools.count()


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the processes of this run, before anything touches a device.

    Without arguments the cluster says who they are (SLURM, Open MPI 4, TPU pods: what JAX detects), one process for
    each GPU, or one for each machine where CUDA_VISIBLE_DEVICES names its GPUs. Where there is one process, on a
    cluster or not, it has all devices and nothing to wait for.

    Args:
      coordinator: HOST:PORT, a free port on the machine of process 0.
      processes: how many there are.
      process: which one this is, from 0.

    Raises:
      InputError: for arguments that do not go together, and where Open MPI started several that JAX cannot join.
    """
    given = (coordinator, processes, process)
    if any(value is not None for value in given):
        if None in given:
            raise InputError(
                "--coordinator=HOST:PORT, --processes=N and --process=I go together; give all three, or none on a "
                "cluster that says them itself"
            )
        if not process < processes:
            raise InputError(f"--process={process} is not one of {processes}, which count from 0")
        if not coordinator.rpartition(":")[2].isdecimal():
            raise InputError(f"--coordinator={coordinator} has no port; give HOST:PORT")
    # JAX's own handler of SIGTERM would take the signal away from the train loop, and from all that is no training.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator is None and any(os.environ.get(name) == "1" for name in _COUNTS):
        return
    try:
        # With arguments nothing is left to detect: SLURM's word on who we are might be another.
        jax.distributed.initialize(
            *given,
            local_device_ids=None if coordinator else own_devices(os.environ),
            cluster_detection_method="deactivate" if coordinator else None,
        )
    except ValueError as error:
        if "coordinator_address should be defined" not in str(error):
            raise
        if count := os.environ.get("OMPI_COMM_WORLD_SIZE"):  # SLURM_NTASKS is there without them, too
            raise InputError(
                f"one of {count} processes, which JAX cannot join under this Open MPI by itself; give each "
                "--coordinator=HOST:PORT, --processes and --process"
            ) from None
        return
    if jax.process_index() > 0:
        progress.mute()
    progress.say(f"{jax.process_count()} processes, {jax.device_count()} devices")


def own_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs that a cluster shows this process are its own, by their numbers among these.

    None leaves it to JAX, which takes the one of the process's number on its machine: right where each process is shown
    all of a machine's GPUs. A process that is shown one has that one; alone on its machine it has all.
    """
    shown = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    # Of mpirun's own step under SLURM, which has one task a machine, its processes see the count, too.
    tasks = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    alone = re.fullmatch(r"1(\(x\d+\))?", tasks)
    return list(range(len(shown))) if len(shown) == 1 or (shown and alone) else None


def wait_for_all(what: str) -> None:
    """Returns when all processes have come here. They wait as in `on_first`.

    Args:
      what: has happened by then; for the message where it does not.
    """
    if jax.process_count() > 1:
        global_state.client.wait_at_barrier(f"chexseg/{next(_calls)}/{what}", _PATIENCE_MS)


def on_first(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `work(*args, **kwargs)` returns on process 0. The others wait for it there, and do not run it.

    They wait at the coordination service: a collective would occupy their devices, and give up in the end.

    Raises:
      InputError: on the others where `work` fails on process 0, which raises what it raised.
    """
    if jax.process_count() == 1:
        return work(*args, **kwargs)
    key = f"chexseg/on_first/{next(_calls)}"
    if jax.process_index() > 0:
        value, failure = pickle.loads(global_state.client.blocking_key_value_get_bytes(key, _PATIENCE_MS))
        if failure:
            raise InputError(f"process 0 ended with {failure}")
        return value
    value, failure = None, None
    try:
        value = work(*args, **kwargs)
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
        raise
    finally:
        global_state.client.key_value_set_bytes(key, pickle.dumps((value, failure)))
    return value


@contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process at once if the block fails and there are others: they see it go, and end too.

    Python's own way out would first wait for them, in Orbax's threads and at JAX's last barrier, as they wait for this
    one. A stop that all agreed on (KeyboardInterrupt) goes that way.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, InputError):
            tell(error)
        else:
            traceback.print_exc()
        time.sleep(_FAREWELL_S)
        os._exit(2 if isinstance(error, InputError) else 1)
