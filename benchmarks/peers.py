"""Shared by benchmarks: time ours and the peer in turn, each in its own process, and print the medians.

A benchmark passes its sides to `compare`; each process runs the benchmark's command again, with `--side` added.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from chexseg_jax.errors import InputError
from chexseg_jax.progress import say
from chexseg_jax.report.tables import markdown

#: Sets up a side: returns the kind of device, and a function that does the work once and waits for it.
Side = Callable[[], tuple[str, Callable[[], Any]]]


def parser(text: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    options = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3, help="processes per side (3)")
    options.add_argument(
        "--repeats", type=int, default=5, help="timed runs in each, after two warm-up runs (5)"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    options.add_argument("--threads", type=int, default=cores, help="CPU cores for each side (all available)")
    options.add_argument(
        "--only",
        default="",
        help="run only sides in whose group and name this regular expression is found: ours|cam",
    )
    options.add_argument(
        "--quick", action="store_true", help="tiny and once: tests that it runs, not how fast"
    )
    options.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="PYTHON",
        help="the interpreter of another environment, whose JAX runs ours too",
    )
    options.add_argument("--side", type=int, help=argparse.SUPPRESS)
    return options


def compare(
    arguments: argparse.Namespace,
    sides: Mapping[tuple[str, str], Side],
    *,
    title: str,
    packages: Sequence[str],
    units: int = 1,
) -> None:
    """Time every side in turn and print a table; in a process with `--side`, time that one.

    Args:
      arguments: parsed by `parser`.
      sides: (group, name) -> side; the first of a group is called "ours", and the others are compared with it.
      title: heading of the table.
      packages: the peer's distributions, whose versions are printed.
      units: of work in a run; times are those of one.

    Raises:
      InputError: if a peer is not installed, ours fails, or the two ran on different devices.
    """
    rounds, repeats = (1, 1) if arguments.quick else (arguments.rounds, arguments.repeats)
    if hasattr(
        os, "sched_setaffinity"
    ):  # JAX has no setting for its threads: it uses the cores of the process
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    sides = {key: side for key, side in sides.items() if re.search(arguments.only, ", ".join(key))}
    if arguments.side is not None:
        print(json.dumps(_measure(list(sides.values())[arguments.side], repeats, units)))
        return
    versions = [f"{name} {_version(name)}" for name in ("jax", "jaxlib", *packages)]
    runs = {key: (sys.executable, index) for index, key in enumerate(sides)}
    others = {f"ours, {jax_of(python)}": python for python in arguments.also}
    ours = [key for key in sides if key[1] == "ours"]
    runs |= {
        (group, name): (python, runs[group, "ours"][1])
        for group, _ in ours
        for name, python in others.items()
    }
    checkout = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(checkout)}  # every interpreter runs this code
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    failed: dict[tuple[str, str], str] = {}
    devices = set()
    for turn in range(rounds):
        for key, (python, index) in runs.items():
            if key in failed:
                continue
            command = [python, *sys.argv, f"--side={index}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                failed[key] = (done.stderr.strip().splitlines() or ["no message"])[-1]
                if key in ours:
                    raise InputError(f"{', '.join(key)} failed: {failed[key]}")
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            seconds[key] += result["seconds"]
            devices.add(result["device"])
            say(f"round {turn + 1} of {rounds}: {', '.join(key)}: {np.median(result['seconds']):.4g} s")
    if len(devices) > 1:
        raise InputError(
            f"ours and the peer ran on {' and '.join(sorted(devices))}: install both for one device"
        )
    device = f"{processor()}, {arguments.threads} threads" if devices == {"cpu"} else "".join(devices)
    print(f"# {title}\n\n{date.today()}, {device}; {', '.join(versions)}.")
    print(f"Medians of {rounds} processes with {repeats} runs each, in turn, after two warm-up runs.\n")
    print("\n".join(table({key: times for key, times in seconds.items() if times})))
    for key, message in failed.items():
        print(f"\n{', '.join(key)} failed: {message}")


def table(seconds: Mapping[tuple[str, str], Sequence[float]]) -> list[str]:
    """Lines of Markdown: each side's median, its range, and its ratio to ours.

    Args:
      seconds: (group, side) -> times; the first of each group is ours.
    """
    ours: dict[str, float] = {}
    rows = []
    for (group, name), times in seconds.items():
        median = float(np.median(times))
        ratio = median / ours.setdefault(group, median)
        rows.append(
            [f"{group}, {name}", f"{median:.4g}", f"{min(times):.4g} to {max(times):.4g}", f"{ratio:.2f}"]
        )
    return markdown(["side", "seconds", "range", "times ours"], rows)


@cache  # the declarations last as long as the library object
def declare_operators() -> Any:
    """Make torchvision importable beside a PyTorch that its compiled operators do not fit, such as a CPU-only one.

    Importing it registers shapes for them, and fails if they are missing. No peer uses any, so declarations suffice.
    """
    import torch

    folder = Path(find_spec("torchvision").origin).parent
    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        text = (folder / "_meta_registrations.py").read_text()
        declared = torch.library.Library("torchvision", "DEF")
        for name in sorted(set(re.findall(r'register_(?:meta\("|fake\("torchvision::)(\w+)"\)', text))):
            declared.define(f"{name}(Tensor x) -> Tensor")
        return declared


def torch_device(threads: int) -> tuple[Any, str]:
    """PyTorch's device and its kind in JAX's words, with PyTorch's fast settings turned on."""
    import torch

    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    return torch.device("cpu"), "cpu"


def jax_of(python: str) -> str:
    """The versions of JAX and Python in the environment of an interpreter."""
    code = (
        "import sys, jax; print(f'jax {jax.__version__}, Python {sys.version_info[0]}.{sys.version_info[1]}')"
    )
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except OSError as error:
        raise InputError(f"--also {python}: {error.strerror}; give an interpreter") from None
    except subprocess.CalledProcessError as error:
        raise InputError(
            f"--also {python}: {(error.stderr.strip().splitlines() or ['no message'])[-1]}"
        ) from None
    return done.stdout.strip()


def _measure(side: Side, repeats: int, units: int) -> dict[str, Any]:
    device, run = side()
    times = []
    for _ in range(2 + repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) / units)
    return {"device": device, "seconds": times[2:]}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise InputError(
            f"{package} is not installed; the peers come with: pip install -e '.[bench]'"
        ) from None


def processor() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.machine()
