"""What a training costs: time, memory and FLOPs of every one; where asked for, an XLA trace and the step's HLO.

`docs/profiling.md` tells how to read them. Nothing here changes what is computed, or an artifact's name.
"""

import json
import re
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from chexseg_jax.errors import InputError
from chexseg_jax.progress import say

#: Dense peak rates in TFLOP/s of the kinds of device: bfloat16, and float32 as JAX multiplies it by default (TF32 on
#: NVIDIA's since Ampere, one bfloat16 pass on TPUs). From the makers' data sheets, halved where those count sparsity:
#: NVIDIA's of H100, H200, A100, V100, L4, T4, and "Ada GPU architecture" for RTX 4090 (FP32 accumulation);
#: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. Written from memory of these: check a figure before you rely on it.
#: V100 and T4 have no bfloat16 units.
_PEAKS = {
    "NVIDIA H100 80GB HBM3|NVIDIA H200": (989.4, 494.7),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA A100.*": (312.0, 156.0),
    "Tesla V100-SXM2.*": (15.7, 15.7),
    "Tesla V100-PCIE.*": (14.0, 14.0),
    "NVIDIA L4": (121.0, 60.0),
    "Tesla T4": (8.1, 8.1),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite|TPU v5e": (197.0, 197.0),
    "TPU v5|TPU v5p": (459.0, 459.0),
    "TPU v6 lite|TPU v6e": (918.0, 918.0),
}
_SHOWN = ("device", "step", "images/s", "compile", "peak memory", "GFLOP/s", "of peak")


@dataclass(frozen=True)
class Profile:
    """What is written of a training beside its numbers.

    Attributes:
      steps: first and last step of an XLA trace, counted from 1, both traced; None takes no trace.
      hlo: whether the step's optimised HLO is written.
    """

    steps: tuple[int, int] | None = None
    hlo: bool = False

    @classmethod
    def parse(cls, steps: str, hlo: bool) -> "Profile":
        """From `FIRST:LAST` (or "") as a configuration has it; raises InputError for anything else."""
        match = re.fullmatch(r"(\d+):(\d+)", steps)
        if steps and not (match and 1 <= int(match[1]) <= int(match[2])):
            raise InputError(f"profile.steps={steps!r} is not FIRST:LAST, two steps from 1 on, such as 10:15")
        return cls((int(match[1]), int(match[2])) if match else None, hlo)


class MeasuredStep:
    """A training's jitted step, compiled ahead, timed and traced; its cost is said and written when the block ends.

    Steps are dispatched without waiting, so time is read where the loop waits anyway: at each fetch of metrics. The
    step time is the median over these windows; evaluations, checkpoints and the writing of a trace are left out.

    Args:
      update: jitted; compiled at the first call.
      name: what progress lines call the training.
      mesh: what it runs on.
      directory: takes `performance.json`, and `profile/` where one is asked for. Only the first process writes.
      batch_size: global.
      steps: the numbers of those to go.
      profile: what is written beside the numbers.
    """

    def __init__(
        self,
        update: Any,
        *,
        name: str,
        mesh: Mesh,
        directory: Path,
        batch_size: int,
        steps: range,
        profile: Profile,
    ):
        self._update, self._name, self._mesh = update, name, mesh
        self._directory, self._batch_size, self._hlo = directory, batch_size, profile.hlo
        self._writes = jax.process_index() == 0
        self._compiled, self._windows, self._tracing = None, [], False
        first, last = profile.steps or (0, 0)
        self._traced = (
            range(max(first, steps.start), min(last, steps.stop - 1) + 1) if self._writes else range(0)
        )
        if profile.steps and not self._traced:
            say(f"{name}: no trace, steps {first} to {last} are not among the {len(steps)} to go")

    def __enter__(self) -> "MeasuredStep":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        if self._tracing:  # cut short: what there is
            self._stop_trace()
        if error is None and self._windows and self._writes:
            self._summarise()

    def __call__(self, step: int, *arguments: Any) -> Any:
        """What the jitted step gives for these arguments; `step` is its number."""
        if self._compiled is None:
            self._compile(*arguments)
            self.restart(step - 1)
        if self._traced and step == self._traced[0]:
            jax.block_until_ready(arguments)
            self._start_trace()
        with jax.profiler.StepTraceAnnotation(self._name, step_num=step):
            result = self._compiled(*arguments)
        if self._tracing and step == self._traced[-1]:
            jax.block_until_ready(result)
            self._stop_trace()
        return result

    def fetched(self, step: int) -> None:
        """The metrics of `step` have come: a window ends, and the next begins."""
        self._windows.append((time.monotonic() - self._since) / (step - self._at))
        self.restart(step)

    def restart(self, step: int) -> None:
        """`step` is over, and something else was done since: a window begins anew."""
        self._at, self._since = step, time.monotonic()

    def _compile(self, *arguments: Any) -> None:
        say(f"{self._name}: compiling the step")
        start = time.monotonic()
        self._lowered = self._update.lower(*arguments)
        self._compiled = self._lowered.compile()
        self._compile_seconds = time.monotonic() - start
        say(f"{self._name}: compiled in {self._compile_seconds:.1f} s")
        if self._hlo and self._writes:
            path = self._folder / "step.hlo.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(self._compiled.as_text())
            say(f"{self._name}: {path}")

    def _start_trace(self) -> None:
        start = time.monotonic()
        say(f"{self._name}: tracing steps {self._traced[0]} to {self._traced[-1]} into {self._folder}")
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
        self._tracing = True
        self._since += time.monotonic() - start

    def _stop_trace(self) -> None:
        start = time.monotonic()
        self._tracing = False
        jax.profiler.stop_trace()
        self._since += time.monotonic() - start

    @property
    def _folder(self) -> Path:
        return self._directory / "profile"

    def _summarise(self) -> None:
        devices, seconds = self._mesh.devices, statistics.median(self._windows)
        kind, dtype = devices.flat[0].device_kind, compute_dtype(self._lowered)
        flops = flops_of(self._lowered)
        memory = self._compiled.memory_analysis()
        costs = {
            "device": kind,
            "devices": devices.size,
            "dtype": dtype,
            "batch_size": self._batch_size,
            "compile_seconds": round(self._compile_seconds, 2),
            "step_seconds": round(seconds, 6),
            "images_per_second": round(self._batch_size / seconds, 2),
            "step_bytes": memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes,
            **_peak_memory(self._mesh),
            "flops_per_step": flops and flops * devices.size,
            "flops_per_second": flops and round(flops * devices.size / seconds),
            "utilisation": flops and utilisation(flops / seconds, kind, dtype),
        }
        (self._directory / "performance.json").write_text(json.dumps(costs, indent=1))
        say(f"{self._name}: " + ", ".join(f"{k} {v}" for k, v in performance(self._directory).items()))


def flops_of(lowered: jax.stages.Lowered) -> float | None:
    """XLA's count of one device's floating-point operations in a lowered program; None where it cannot be had.

    A compiled program's own count is of no use on a GPU: convolutions and products are library calls there, which
    count as nothing. And the plugins of GPUs and TPUs do not count a lowered one, so the CPU's client does.
    """
    costs = lowered.cost_analysis()
    if costs is None:
        try:
            client = jax.local_devices(backend="cpu")[0].client
        except RuntimeError:
            say("FLOPs are not counted: JAX_PLATFORMS leaves out cpu")
            return None
        from jaxlib import _jax  # not public, so it is asked for only where there is no other way

        costs = _jax.hlo_module_cost_analysis(client, lowered.compiler_ir("hlo").as_hlo_module())
    return costs["flops"]


def compute_dtype(lowered: jax.stages.Lowered) -> str:
    """`bfloat16` if any convolution or product of the lowered program takes it, else `float32`."""
    heavy = re.search(r"stablehlo\.(?:convolution|dot_general)\b.*xbf16>", lowered.as_text())
    return "bfloat16" if heavy else "float32"


def utilisation(flops_per_second: float, kind: str, dtype: str) -> float | None:
    """A device's rate over the peak of its kind; None for a kind that the table does not have."""
    for known, peaks in _PEAKS.items():
        if re.fullmatch(known, kind):
            return flops_per_second / (1e12 * peaks[dtype != "bfloat16"])
    return None


def performance(directory: Path) -> dict[str, str]:
    """A training's `performance.json` as people read it; a dash where there is no number, or no file."""
    path = directory / "performance.json"
    if not path.exists():  # trained before there was such a file
        return dict.fromkeys(_SHOWN, "-")
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
    return dict(zip(_SHOWN, values, strict=True))


def _peak_memory(mesh: Mesh) -> dict[str, Any]:
    """The most that one of this process's devices has held, or, where they keep no count (CPU), the process."""
    stats = [device.memory_stats() for device in mesh.local_devices]
    if all(stats):
        return {"peak_memory_of": "device", "peak_memory_bytes": max(s["peak_bytes_in_use"] for s in stats)}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_of": "process", "peak_memory_bytes": peak}
