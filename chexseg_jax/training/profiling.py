"""The cost of a training: time, memory and FLOPs, always; on request an XLA trace and the step's HLO.

`docs/profiling.md` explains how to read them. Nothing here changes what is computed.
"""

import json
import re
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from chexseg_jax.errors import InputError
from chexseg_jax.progress import say
from chexseg_jax.training.sharding import compile_step

#: Device kind (a pattern) -> dense peak rates in TFLOP/s: bfloat16, and float32 as JAX multiplies it by default (TF32
#: on NVIDIA's since Ampere, one bfloat16 pass on TPUs). NVIDIA's figures with sparsity are halved. V100 and T4 have no
#: bfloat16 units: their float32 rate stands for both.
_PEAKS = {
    # https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet: SXM 1,979 and 989 with sparsity,
    # PCIe 1,513 and 756; https://www.nvidia.com/en-us/data-center/h200/: as H100 SXM
    "NVIDIA H100 80GB HBM3|NVIDIA H200": (989.5, 494.5),
    "NVIDIA H100 PCIe": (756.5, 378.0),
    # https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf
    "NVIDIA A100.*": (312.0, 156.0),
    # https://www.nvidia.com/en-us/data-center/l4/: 242 and 120 with sparsity
    "NVIDIA L4": (121.0, 60.0),
    # https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf
    "Tesla V100-SXM2.*": (15.7, 15.7),
    "Tesla V100-PCIE.*": (14.0, 14.0),
    # https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf
    "Tesla T4": (8.1, 8.1),
    # https://docs.cloud.google.com/tpu/docs/ v4, v5e, v5p and v6e: "Peak compute per chip (bf16)"
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite|TPU v5e": (197.0, 197.0),
    "TPU v5|TPU v5p": (459.0, 459.0),
    "TPU v6 lite|TPU v6e": (918.0, 918.0),
}
_COLUMNS = ("device", "step", "images/s", "compile", "peak memory", "GFLOP/s", "of peak")


@dataclass(frozen=True)
class Profile:
    """What to profile; not part of an artifact's key.

    Attributes:
      steps: first and last step of an XLA trace, both included, counted from 1; None takes no trace.
      hlo: whether to write the step's optimised HLO.
    """

    steps: tuple[int, int] | None = None
    hlo: bool = False

    @classmethod
    def parse(cls, steps: str, hlo: bool) -> "Profile":
        """Read `FIRST:LAST` (or "") from a configuration.

        Raises:
          InputError: for anything else.
        """
        match = re.fullmatch(r"(\d+):(\d+)", steps)
        if steps and not (match and 1 <= int(match[1]) <= int(match[2])):
            raise InputError(
                f"profile.steps={steps!r} must be FIRST:LAST, two steps from 1 up, such as 10:15"
            )
        return cls((int(match[1]), int(match[2])) if match else None, hlo)


class MeasuredStep:
    """A jitted training step, compiled at the first call, timed and traced; leaving the block reports its cost.

    Steps are dispatched without waiting, so time is read where the loop waits anyway: at each fetch of metrics. The
    step time is the median over these windows, without evaluations, checkpoints and the writing of a trace.

    Args:
      update: (state, batch, key) -> (state, metrics), jitted.
      name: the training's name in progress lines.
      directory: receives `performance.json`, and `profile/` on request. Only process 0 writes.
      mesh: the devices it runs on.
      todo: the numbers of the steps to run.
      profile: what to profile.
    """

    def __init__(self, update: Any, name: str, directory: Path, mesh: Mesh, todo: range, profile: Profile):
        self._update, self._name, self._mesh = update, name, mesh
        self._directory, self._folder, self._hlo = directory, directory / "profile", profile.hlo
        self._writes = jax.process_index() == 0
        self._compiled: Any = None
        self._windows: list[float] = []
        self._trace = ExitStack()
        first, last = profile.steps or (0, 0)
        self._traced = [step for step in todo if first <= step <= last and self._writes]
        if profile.steps and not self._traced:
            say(f"{name}: no trace, steps {first} to {last} are not among the {len(todo)} to go")

    def __enter__(self) -> "MeasuredStep":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        self._trace.close()
        if error is None and self._windows and self._writes:
            costs = self._costs()
            (self._directory / "performance.json").write_text(json.dumps(costs, indent=1))
            say(f"{self._name}: " + ", ".join(f"{k} {v}" for k, v in performance(self._directory).items()))

    def __call__(self, step: int, state: Any, batch: Any, key: jax.Array) -> Any:
        """Run the update; `step` is its number."""
        if self._compiled is None:
            state = self._compile(state, batch, key)
            self.restart(step - 1)
        if step in self._traced[:1]:
            jax.block_until_ready((state, batch))
            say(f"{self._name}: tracing steps {step} to {self._traced[-1]} into {self._folder}")
            with self._untimed():
                self._trace.enter_context(jax.profiler.trace(self._folder, create_perfetto_trace=True))
        with jax.profiler.StepTraceAnnotation(self._name, step_num=step):
            result = self._compiled(state, batch, key)
        if step in self._traced[-1:]:
            jax.block_until_ready(result)
            with self._untimed():
                self._trace.close()
        return result

    def fetched(self, step: int) -> None:
        """End a window: the metrics of `step` have arrived."""
        self._windows.append((time.monotonic() - self._since) / (step - self._at))
        self.restart(step)

    def restart(self, step: int) -> None:
        """Start a window after `step`, leaving out the time since the last one."""
        self._at, self._since = step, time.monotonic()

    @contextmanager
    def _untimed(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._since += time.monotonic() - start

    def _compile(self, state: Any, batch: Any, key: jax.Array) -> Any:
        """Compile the step for these arguments; return the state as the step takes it."""
        say(f"{self._name}: compiling the step")
        start = time.monotonic()
        self._batch_size = jax.tree.leaves(batch)[0].shape[0]
        self._lowered, self._compiled, state = compile_step(self._update, state, batch, key)
        self._compile_seconds = time.monotonic() - start
        say(f"{self._name}: compiled in {self._compile_seconds:.1f} s")
        if self._hlo and self._writes:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / "step.hlo.txt"
            path.write_text(self._compiled.as_text())
            say(f"{self._name}: {path}")
        return state

    def _costs(self) -> dict[str, Any]:
        count, seconds = self._mesh.size, statistics.median(self._windows)
        kind, dtype = self._mesh.devices.flat[0].device_kind, compute_dtype(self._lowered)
        flops = flops_of(self._lowered)
        memory = self._compiled.memory_analysis()
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        return {
            "device": kind,
            "devices": count,
            "dtype": dtype,
            "batch_size": self._batch_size,
            "compile_seconds": round(self._compile_seconds, 2),
            "step_seconds": round(seconds, 6),
            "images_per_second": round(self._batch_size / seconds, 2),
            "step_bytes": held + memory.temp_size_in_bytes,
            **_peak_memory(self._mesh),
            "flops_per_step": flops and flops * count,
            "flops_per_second": flops and round(flops * count / seconds),
            "utilisation": flops and utilisation(flops / seconds, kind, dtype),
        }


def flops_of(lowered: jax.stages.Lowered) -> float | None:
    """Count one device's floating-point operations in a lowered program; None where the backend cannot.

    The plugins for GPUs and TPUs cannot (jax 0.10). A compiled program's count is no substitute on a GPU, where it
    takes the convolutions and products, which are library calls, for nothing.
    """
    costs = lowered.cost_analysis()
    return costs and costs["flops"]


def compute_dtype(lowered: jax.stages.Lowered) -> str:
    """Return `bfloat16` if any convolution or product of the lowered program uses it, else `float32`."""
    heavy = re.search(r"stablehlo\.(?:convolution|dot_general)\b.*xbf16>", lowered.as_text())
    return "bfloat16" if heavy else "float32"


def utilisation(flops_per_second: float, kind: str, dtype: str) -> float | None:
    """Divide a device's rate by the peak of its kind; None for a kind without a known peak."""
    for known, peaks in _PEAKS.items():
        if re.fullmatch(known, kind):
            return flops_per_second / (1e12 * peaks[dtype != "bfloat16"])
    return None


def performance(directory: Path) -> dict[str, str]:
    """Format a training's `performance.json` for people; a dash for a missing number or file."""
    path = directory / "performance.json"
    if not path.exists():  # an artifact older than this file
        return dict.fromkeys(_COLUMNS, "-")
    costs = json.loads(path.read_text())
    rate, used = costs["flops_per_second"], costs["utilisation"]
    values = (
        f"{costs['devices']} x {costs['device']}, {costs['dtype']}",
        f"{costs['step_seconds']:.3g} s",
        f"{costs['images_per_second']:.3g}",
        f"{costs['compile_seconds']:.1f} s",
        f"{costs['peak_memory_bytes'] / 1e9:.2f} GB ({costs['peak_memory_of']})",
        f"{rate / 1e9:.3g}" if rate else "-",
        "-" if used is None else f"{used:.1%}",
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _peak_memory(mesh: Mesh) -> dict[str, Any]:
    """Return the peak of this process's fullest device, or of the process where devices keep no count (CPU)."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    if all(stats):
        return {"peak_memory_of": "device", "peak_memory_bytes": max(s["peak_bytes_in_use"] for s in stats)}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_of": "process", "peak_memory_bytes": peak}
