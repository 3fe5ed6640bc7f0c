"""Several processes that run one program: how they join, and how one works for all.

Every process runs every line, on the same files. Work that must happen once goes through `on_first`.
"""

import itertools
import os
import pickle
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import jax
from jax._src import xla_bridge
from jax._src.distributed import global_state

from chexseg_jax import progress
from chexseg_jax.errors import DiskError, InputError, MissingWeightsError, first_line, leave, tell

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: A stage may take days.
_PATIENCE_MS = 30 * 24 * 3600 * 1000
#: How long a failed process stays alive, so that those waiting for it in `on_first` can read its error.
_FAREWELL_S = 3
#: Variables with a cluster's number of processes; the first that is set counts, as in `own_devices`. Where it is 1, JAX
#: must not join: it would give the process a single device, and the shards of a table within one job (`config.shard`,
#: each a program of its own) the same port.
_COUNTS = ("OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")
#: Deterministic kernels alone, and none chosen by timing several: every process then runs the same ones.
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
#: Numbers each meeting of the processes; all of them count the same.
_calls = itertools.count()


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the processes of this run, before anything touches a device.

    Without arguments the cluster decides (SLURM, Open MPI 4, TPU pods: whatever JAX detects): one process per GPU, or
    one per machine where CUDA_VISIBLE_DEVICES names its GPUs. A single process, on a cluster or not, has all devices
    and waits for nobody.

    Args:
      coordinator: HOST:PORT, a free port on the machine of process 0.
      processes: the number of processes.
      process: the number of this one, from 0.

    Raises:
      InputError: if the arguments do not go together, Open MPI started several processes that JAX cannot join, or this
        process has no device.
    """
    # JAX's own handler would take SIGTERM away from the train loop, and from everything outside it.
    jax.config.update("jax_enable_preemption_service", False)
    if joins := any(argument is not None for argument in (coordinator, processes, process)):
        _join(coordinator, processes, process)
    else:
        joins = _join_cluster()
    check_devices()
    if not joins:
        return
    if jax.process_index() > 0:
        progress.mute()
    progress.say(f"{jax.process_count()} processes, {jax.device_count()} devices")


def be_deterministic() -> None:
    """Have a GPU give the same bits in every run of a program, by a flag that XLA reads when it first sees a device.

    Raises:
      InputError: if that has happened without the flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _DETERMINISTIC in flags.split():
        return
    if xla_bridge.backends_are_initialized():
        raise InputError(
            "config.deterministic=True: too late, JAX has already started the devices; set the variable "
            f"XLA_FLAGS={_DETERMINISTIC} before Python starts"
        )
    os.environ["XLA_FLAGS"] = f"{flags} {_DETERMINISTIC}".lstrip()


def check_devices() -> None:
    """Raise an `InputError` unless this process has the devices that JAX_PLATFORMS asks for."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: cuda without its package
        raise InputError(
            f"JAX_PLATFORMS={platforms}: JAX has no such device here ({first_line(error)}); unset it, or install the "
            "device's driver and package, such as the extra cuda"
        ) from None


def _join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    if coordinator is None or processes is None or process is None:
        raise InputError(
            "--coordinator=HOST:PORT, --processes=N and --process=I go together; give all three, or none on a cluster "
            "that JAX detects"
        )
    if not process < processes:
        raise InputError(f"--process={process} is not one of {processes} processes, which count from 0")
    if not coordinator.rpartition(":")[2].isdecimal():
        raise InputError(f"--coordinator={coordinator} has no port; give HOST:PORT")
    # Detection is off: SLURM might number the processes differently.
    with _telling_of_wait(processes, f"--processes={processes}", "start each with its own --process"):
        jax.distributed.initialize(coordinator, processes, process, cluster_detection_method="deactivate")


def _join_cluster() -> bool:
    """Join the processes that a cluster started; return False if this one is alone."""
    name = next((name for name in _COUNTS if name in os.environ), "")
    if os.environ.get(name) == "1":
        return False
    source = f"{name}={os.environ.get(name)}"
    fix = f"start each with {'srun' if 'SLURM' in name else 'mpirun'}, or set {name}=1 for this one alone"
    try:
        with _telling_of_wait(int(os.environ.get(name, 1)), source, fix):
            jax.distributed.initialize(local_device_ids=own_devices(os.environ))
    except ValueError as error:
        if "coordinator_address should be defined" not in str(error):
            raise
        if count := os.environ.get("OMPI_COMM_WORLD_SIZE"):  # SLURM sets its count for a lone process too
            raise InputError(
                f"one of {count} processes, which JAX cannot join under this Open MPI by itself; give each "
                "--coordinator=HOST:PORT, --processes and --process"
            ) from None
        return False
    return True


@contextmanager
def _telling_of_wait(count: int, source: str, fix: str) -> Iterator[None]:
    """Say after a second who is waited for: JAX gives up after five minutes."""
    text = f"waiting for the other {count - 1} of {count} processes ({source}); if there are none, {fix}"
    timer = threading.Timer(1, progress.say, [text])
    timer.daemon = True
    if count > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def own_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Choose this process's GPUs among those that the cluster shows it, by their index there.

    A process that sees one GPU uses it; a process alone on its machine uses all it sees. None leaves the choice to JAX,
    which takes the GPU with the process's number on the machine: right if every process sees all of its GPUs.
    """
    visible = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    # Open MPI's count first: under SLURM, mpirun runs in a step of one task per machine, and its processes see that
    # step's count.
    tasks = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    alone = re.fullmatch(r"1(\(x\d+\))?", tasks)
    return list(range(len(visible))) if len(visible) == 1 or (visible and alone) else None


def _service() -> Any:
    # JAX's coordination service has no public name; Orbax imports it the same way.
    return global_state.client


def wait_for_all(event: str) -> None:
    """Return once all processes have called this; they wait as in `on_first`.

    Args:
      event: has happened by then; named in the error if a process never arrives.
    """
    if jax.process_count() > 1:
        _service().wait_at_barrier(f"chexseg/{next(_calls)}/{event}", _PATIENCE_MS)


def on_first(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run `work(*args, **kwargs)` on process 0, and return its result on all.

    The others wait at the coordination service: a collective would occupy their devices, and time out.

    Raises:
      InputError: on the others, if `work` fails on process 0, which raises the original error; a MissingWeightsError or
        a DiskError is one on all.
    """
    if jax.process_count() == 1:
        return work(*args, **kwargs)
    key = f"chexseg/on_first/{next(_calls)}"
    if jax.process_index() > 0:
        value, failure, kind = pickle.loads(_service().blocking_key_value_get_bytes(key, _PATIENCE_MS))
        if failure:
            raise kind(f"process 0 ended with {failure}")
        return value
    value, failure, kind = None, None, InputError
    try:
        value = work(*args, **kwargs)
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
        kind = next((k for k in (MissingWeightsError, DiskError) if isinstance(error, k)), InputError)
        raise
    finally:
        _service().key_value_set_bytes(key, pickle.dumps((value, failure, kind)))
    return value


@contextmanager
def ending_together() -> Iterator[None]:
    """End this process at once if the block fails, and the others, if there are any, with it.

    A normal exit would let libraries report a full disk again, and wait for the others, in Orbax's threads and at JAX's
    last barrier, while they wait for this one.
    A stop that all agreed on (KeyboardInterrupt) does meet the others at that barrier.
    """
    try:
        yield
    except KeyboardInterrupt:
        if jax.process_count() > 1:
            jax.distributed.shutdown()
        raise
    except Exception as error:
        if isinstance(error, InputError):
            tell(error)
        else:
            traceback.print_exc()
        if jax.process_count() > 1:
            time.sleep(_FAREWELL_S)
        leave(2 if isinstance(error, InputError) else 1)
