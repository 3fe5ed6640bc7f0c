"""Compile every program for an NVIDIA GPU that need not be there, and check what does not need one.

    pip install -e '.[gpu-check]'
    python benchmarks/gpu_readiness.py --gpu h100_sxm
    python benchmarks/gpu_readiness.py --gpu rtx2070 --programs moco --batch 128
    python benchmarks/gpu_readiness.py --gpu h100_sxm --programs deeplab,densenet --devices 8

The programs are those of the paper's settings (320 px). Needs the CUDA plugin, but no driver, no CUDA and no cuDNN. A
row has, for one device: the peak of the memory that XLA plans, kernel launches (of a loop, as many as it turns), bytes
that they read and write, and collectives.

Times are a model, never measurements. `roof`: every kernel at 90 % of the memory's rate, or at the peak rate of its
matrix products and convolutions if that takes longer. `est`: 1.25 times as long, and at least 3 us a kernel.

exit codes: 0 all is well; 1 a program has float64, host callbacks, loops without a known end, state that is not
donated, windows over 9x9, more kernels or collectives than gpu_bounds.json allows on this GPU, or more memory than it
has; 2 nothing was done
"""

import argparse
import json
import re
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from gpu_programs import PROGRAMS, Setting, absent
from hlo import Kernel, Program
from jax.experimental import topologies

from chexseg_jax.errors import InputError, run_command
from chexseg_jax.progress import say
from chexseg_jax.training.profiling import utilisation

HERE = Path(__file__).parent
DTYPES = ("float32", "bfloat16")
#: Larger windows are what XLA makes of some kernel gradients; cuDNN has no fast path for them.
WINDOW = 9
#: Paths of the depthwise convolutions whose kernel gradients may have larger ones, until they are measured on a device.
UNMEASURED = re.compile(r"transpose\(.*/decoder/(aspp_0/convs_[123]_0_0|aspp_1_0|block2_0_0)/")
LAUNCH, SLOWER, OF_MEMORY = 3e-6, 1.25, 0.9
COLUMNS = ("program", "peak GB", "kernels", "GB moved", "roof ms", "est ms", "collectives", "compile s")


@dataclass(frozen=True)
class Gpu:
    """A GPU to compile for.

    Attributes:
      text: its description, as XLA reads it.
      kind: its name.
      memory: bytes.
      bandwidth: of its memory, bytes a second.
      vector: float32 operations a second outside its matrix units.
    """

    text: str
    kind: str
    memory: float
    bandwidth: float
    vector: float

    @classmethod
    def load(cls, name: str) -> "Gpu":
        """Read a description: a file, or the name of one of `gpu_specs/`.

        Raises:
          InputError: if there is none, or it lacks a number.
        """
        path = HERE / "gpu_specs" / f"{name}.txtpb"
        path = path if path.exists() else Path(name)
        if not path.is_file():
            known = ", ".join(sorted(spec.stem for spec in (HERE / "gpu_specs").glob("*.txtpb")))
            raise InputError(f"--gpu {name}: must be a file or one of {known}")
        text = path.read_text()
        keys = ("device_memory_size", "memory_bandwidth", "clock_rate_ghz", "core_count", "fpus_per_core")
        found = {key: re.search(rf"\b{key}: ([\d.]+)", text) for key in keys}
        kind = re.search(r'device_description_str: "(.*)"', text)
        if missing := [key for key, match in {**found, "device_description_str": kind}.items() if not match]:
            raise InputError(f"{path}: has no {', '.join(missing)}; see {HERE / 'gpu_specs'} for examples")
        memory, bandwidth, clock, cores, units = (float(found[key][1]) for key in keys)
        return cls(text, kind[1], memory, bandwidth, 2e9 * clock * cores * units)

    def roof(self, kernel: Kernel) -> float:
        """Seconds that a run of a kernel takes at least, by the model."""
        share = utilisation(1.0, self.kind, "bfloat16" if kernel.narrow else "float32")
        peak = 1 / share if share else self.vector
        return max(kernel.bytes / (OF_MEMORY * self.bandwidth), kernel.flops / peak)


def main() -> None:
    """Read the command line, print the table, and name every fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", default="h100_sxm", help="one of gpu_specs/, or a file (h100_sxm)")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help=f"of {','.join(PROGRAMS)} (all)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of the networks (float32)")
    parser.add_argument("--devices", type=int, default=1, help="number of such GPUs (1)")
    parser.add_argument("--batch", type=int, default=0, help="global batch (0: the paper's)")
    parser.add_argument("--remat", action="store_true", help="recompute in the backward pass, to save memory")
    parser.add_argument("--hlo", type=Path, metavar="DIR", help="keep the programs, DIR/PROGRAM.hlo.txt")
    flags = parser.parse_args()
    gpu, names = Gpu.load(flags.gpu), flags.programs.split(",")
    if unknown := [name for name in names if name not in PROGRAMS]:
        raise InputError(f"--programs {unknown[0]}: must be of {','.join(PROGRAMS)}")
    if flags.devices < 1 or flags.batch < 0:
        raise InputError(
            f"--devices {flags.devices} must be at least 1, and --batch {flags.batch} at least 0"
        )
    if not find_spec("jax_cuda13_plugin"):
        raise InputError("no CUDA plugin: pip install -e '.[gpu-check]'")
    jax.config.update("jax_platforms", "cpu")  # the plugin compiles; it need not find a GPU
    print(f"{flags.devices} x {gpu.kind}, {flags.dtype}, jax {jax.__version__}. Times are a model.\n")
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}", flush=True)
    topology = topologies.get_topology_desc(
        platform="cuda", target_config=gpu.text, topology=f"1x1x{flags.devices}"
    )
    with absent(topology.devices) as mesh:
        setting = Setting(mesh, flags.dtype, flags.batch, flags.remat)
        faults = [fault for name in names for fault in check(name, gpu, setting, flags.hlo)]
    for fault in faults:
        say(fault)
    sys.exit(1 if faults else 0)


def check(name: str, gpu: Gpu, setting: Setting, folder: Path | None) -> list[str]:
    """Compile a program, print its row, and list its faults."""
    start = time.monotonic()
    wanted = PROGRAMS[name](setting)
    compiled = wanted.function.lower(*wanted.arguments).compile()
    seconds = time.monotonic() - start
    program, memory = Program(compiled.as_text()), compiled.memory_analysis()
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.hlo.txt").write_text(program.text)
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    peak -= memory.alias_size_in_bytes
    roofs = [(gpu.roof(kernel), kernel.runs) for kernel in program.kernels]
    launches, collectives = counts(program)
    row = [
        name,
        f"{peak / 1e9:.2f}",
        f"{launches:,}",
        f"{sum(kernel.runs * kernel.bytes for kernel in program.kernels) / 1e9:.1f}",
        f"{1e3 * sum(runs * roof for roof, runs in roofs):.1f}",
        f"{1e3 * sum(runs * max(SLOWER * roof, LAUNCH) for roof, runs in roofs):.1f}",
        f"{collectives:,}",
        f"{seconds:.0f}",
    ]
    print(f"| {' | '.join(row)} |", flush=True)
    key = " ".join([name, setting.dtype, *([f"x{setting.mesh.size}"] if setting.mesh.size > 1 else [])])
    bounds = json.loads((HERE / "gpu_bounds.json").read_text()).get(gpu.kind, {}).get(key, {})
    faults = faults_of(program, wanted.donated, bounds)
    if peak > gpu.memory:
        faults.append(f"needs {peak / 1e9:.2f} GB of {gpu.memory / 1e9:.2f} GB; try --batch or --remat")
    return [f"{key}: {fault}" for fault in faults]


def counts(program: Program) -> tuple[int, int]:
    """Launches, and those of them that are collectives, in one call of a program."""
    return (
        sum(kernel.runs for kernel in program.kernels),
        sum(kernel.runs for kernel in program.kernels if kernel.collective),
    )


def faults_of(program: Program, donated: int, bounds: dict[str, Any]) -> list[str]:
    """What is wrong with a program, one line each.

    Args:
      program: compiled.
      donated: number of arguments whose memory the results should reuse.
      bounds: at most so many `kernels` and `collectives`; {} for a program without bounds.
    """
    faults = []
    if wide := sorted(set(re.findall(r"\b(?:f64|c128)\[[\d,]*\]", program.text))):
        faults.append(f"float64: {', '.join(wide[:3])}")
    for kernel in program.kernels:
        instruction = kernel.instruction
        if "callback" in instruction.target or instruction.opcode in ("infeed", "outfeed", "send", "recv"):
            faults.append(f"{instruction.name} calls the host ({instruction.path})")
        if max(instruction.window, default=0) > WINDOW and not UNMEASURED.search(instruction.path):
            size = "x".join(map(str, instruction.window))
            faults.append(f"{instruction.name} has a window of {size} ({instruction.path})")
    faults += [f"{loop.name} has no known end ({loop.path})" for loop in program.unbounded]
    if program.donated() < donated:
        faults.append(f"reuses the memory of {program.donated()} of {donated} arrays of state")
    found = dict(zip(("kernels", "collectives"), counts(program), strict=True))
    faults += [
        f"{found[what]:,} {what}, and {bound:,} are allowed"
        for what, bound in bounds.items()
        if found[what] > bound
    ]
    return faults


if __name__ == "__main__":
    run_command(main)
