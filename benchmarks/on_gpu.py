"""What `on_gpu.sh` measures on a device and no other benchmark does. Each command prints a section of Markdown.

    python benchmarks/on_gpu.py machine                    # names and versions
    python benchmarks/on_gpu.py programs irnet gradcam     # time of some programs of gpu_programs.py
    python benchmarks/on_gpu.py paths                      # IRNet's loss and walk: paths as a loop, or unrolled
    python benchmarks/on_gpu.py dilated                    # ways to compute dilated convolutions and their gradients
    python benchmarks/on_gpu.py trace deeplab FOLDER       # a trace for trace_summary.py
    python benchmarks/on_gpu.py resume                     # does a resumed training give the same bits?

Times are medians of five rounds of twenty calls, which wait for the device at the end of a round. Inputs and weights
are random. With --tiny, once and small: that it runs, not how fast.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gpu_programs import PROGRAMS, TASKS, Program, Setting

from chexseg_jax import models
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import Examples
from chexseg_jax.errors import run_command
from chexseg_jax.irnet.losses import irnet_loss
from chexseg_jax.irnet.random_walk import propagate
from chexseg_jax.models import cpu
from chexseg_jax.models.normalisation import IMAGENET
from chexseg_jax.processes import be_deterministic
from chexseg_jax.progress import say
from chexseg_jax.report.tables import markdown
from chexseg_jax.stages.segmentation import segmentation_loss
from chexseg_jax.training import optim
from chexseg_jax.training.loop import fit
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh
from chexseg_jax.training.state import initial_variables

DTYPES = ("float32", "bfloat16")
#: Channels into and out of the dilated convolutions, rate, depthwise: of a ResNet18's last stage, of ASPP's branches.
DILATED = {"3x3, rate 2": (512, 512, 2, False)} | {
    f"depthwise, rate {rate}": (512, 512, rate, True) for rate in (12, 24, 36)
}


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)

    def command(function: Callable[..., None], *names: str, **options: Any) -> None:
        one = commands.add_parser(function.__name__.replace("_", "-"))
        one.set_defaults(function=function)
        for name in names:
            one.add_argument(name, **options.get(name, {}))
        one.add_argument("--tiny", action="store_true")

    command(machine)
    command(programs, "names", names={"nargs": "+", "choices": list(PROGRAMS)})
    command(paths)
    command(dilated)
    command(trace, "name", "folder", name={"choices": list(PROGRAMS)}, folder={"type": Path})
    command(resume)
    switch = {"--deterministic": {"action": "store_true"}}
    command(train, "folder", "steps", "--deterministic", folder={"type": Path}, steps={"type": int}, **switch)
    arguments = vars(parser.parse_args())
    arguments.pop("function")(**arguments)


def machine(tiny: bool) -> None:
    """Print what everything else ran on."""
    print(f"# {jax.devices()[0].device_kind}: first measurements{', tiny' if tiny else ''}\n")
    names = ("jax", "jaxlib", "torch", "segmentation-models-pytorch", "grain", "flax")
    print(f"{date.today()}, {len(jax.devices())} device(s), {os.cpu_count()} cores ({platform.machine()}),")
    print(f"Python {platform.python_version()}, {', '.join(map(_version, names))}.")
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm", "--format=csv"]
        print(f"\n```\n{subprocess.run(query, capture_output=True, text=True).stdout.strip()}\n```")
    except FileNotFoundError:
        print("\nThere is no nvidia-smi.")


def programs(names: list[str], tiny: bool) -> None:
    """Time programs of the paper's settings on one device, in both dtypes."""
    _begin("Programs of the paper's settings", ["program", "dtype", "batch", "ms", "range", "images/s"])
    for name in names:
        for dtype in DTYPES:
            program = PROGRAMS[name](_setting(dtype, tiny))
            batch = jax.tree.leaves(program.arguments[1])[0].shape[0]
            seconds = _time(_call_of(program), tiny)
            rate = f"{batch / np.median(seconds):,.0f}"
            _row([name, dtype, str(batch), *_milliseconds(seconds), rate])


def paths(tiny: bool) -> None:
    """Time IRNet's loss with its gradients, and the random walk, with either way to follow paths of pixels."""
    side, batch, radius = (16, 2, 3) if tiny else (80, 16, 10)
    draw = np.random.default_rng(0)
    edge, field = (
        draw.random((batch, side, side), np.float32),
        draw.random((batch, side, side, 2), np.float32),
    )
    labels = draw.integers(0, 3, (batch, side, side, TASKS), np.uint8)
    cam = draw.random((batch, side, side, TASKS), np.float32)

    def loss(edge: Any, field: Any, labels: Any) -> Any:
        return irnet_loss(edge, field, labels, radius=radius)[0]

    _begin(f"Paths of pixels, {side}x{side}, batch {batch}", ["function", "ways", "ms", "range", "compile s"])
    for name, function, arguments in (
        (f"IRNet's loss and gradients, radius {radius}", jax.grad(loss, (0, 1)), (edge, field, labels)),
        ("random walk, radius 5, 2^8 steps", partial(propagate, radius=5, beta=10, exp_times=8), (cam, edge)),
    ):
        for way, on_cpu in (("unrolled", False), ("a loop", True)):
            with cpu.override(on_cpu):
                start = time.perf_counter()
                compiled = jax.jit(function).lower(*arguments).compile()
                took = time.perf_counter() - start
            placed = jax.device_put(arguments)
            seconds = _time(lambda compiled=compiled, placed=placed: compiled(*placed), tiny)
            _row([name, way, *_milliseconds(seconds), f"{took:.1f}"])


def dilated(tiny: bool) -> None:
    """Time dilated convolutions with the gradients of map and kernel, as XLA has them and as this package does."""
    batch, side = (1, 12) if tiny else (8, 20)
    header = ["convolution", "dtype", "way", "ms", "range", "difference to XLA's op"]
    _begin(f"Dilated convolutions with their gradients, {side}x{side}, batch {batch}", header)
    draw = np.random.default_rng(0)
    for name, (channels, features, rate, depthwise) in DILATED.items():
        if tiny:
            channels = features = 8
        shape = (3, 3, 1 if depthwise else channels, features)
        for dtype in DTYPES:
            x, dy, kernel = (
                jnp.asarray(draw.standard_normal(s), dtype)
                for s in ((batch, side, side, channels), (batch, side, side, features), shape)
            )
            expected = None
            for way, on_cpu, convolve in (
                ("XLA's op", False, cpu.convolution_op),
                ("this package's for a GPU", False, cpu.convolve),
                ("this package's for a CPU", True, cpu.convolve),
            ):

                def step(x: Any, kernel: Any, dy: Any, convolve=convolve, rate=rate, depthwise=depthwise):
                    y, back = jax.vjp(lambda x, k: convolve(x, k, 1, rate, depthwise=depthwise), x, kernel)
                    return y, back(dy)

                with cpu.override(on_cpu):
                    call = partial(jax.jit(step), x, kernel, dy)
                    results = [np.asarray(y, np.float64) for y in jax.tree.leaves(call())]
                    seconds = _time(call, tiny)
                expected = expected or results
                worst = max(
                    np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(results, expected, strict=True)
                )
                _row([name, dtype, way, *_milliseconds(seconds), f"{worst:.1e}"])


def trace(name: str, folder: Path, tiny: bool) -> None:
    """Trace five calls of a program, with its optimised HLO beside them."""
    program = PROGRAMS[name](_setting("float32", tiny))
    call = _call_of(program)
    _time(call, tiny)
    folder.mkdir(parents=True, exist_ok=True)
    compiled = program.function.lower(*program.arguments).compile()
    (folder / "step.hlo.txt").write_text(compiled.as_text())
    with jax.profiler.trace(str(folder)):
        for number in range(5):
            with jax.profiler.StepTraceAnnotation("step", step_num=number):
                jax.block_until_ready(call())


def resume(tiny: bool) -> None:
    """Train in one process, and in two that take half of the steps each; compare all bytes of the final state."""
    steps = 4 if tiny else 20
    _begin("A training that stops and resumes", ["deterministic", "steps", "the same bits as in one process"])
    for flags in (["--deterministic"], []):
        digests = {}
        with tempfile.TemporaryDirectory() as folder:
            for where, counts in (("one", [steps]), ("two", [steps // 2, steps])):
                for count in counts:
                    command = [sys.executable, __file__, "train", f"{folder}/{where}", str(count), *flags]
                    command += ["--tiny"] if tiny else []
                    # Programs from the compilation cache would hide that XLA may choose other kernels.
                    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
                    digests[where] = done.stdout.splitlines()[-1]
        halves = f"{steps // 2} + {steps // 2}"
        _row(["yes" if flags else "no", halves, "yes" if digests["one"] == digests["two"] else "no"])


def train(folder: Path, steps: int, deterministic: bool, tiny: bool) -> None:
    """Train a DeepLabv3+ on noise, resuming in `folder`, and print a digest of its final state."""
    if deterministic:
        be_deterministic()
    size, batch = (32, 2) if tiny else (160, 8)
    draw = np.random.default_rng(0)
    examples = Examples(
        image=draw.integers(0, 256, (4 * batch, size, size), np.uint8),
        masks=draw.integers(0, 256, (4 * batch, size, size, 2), np.uint8),
        known=np.ones((4 * batch, TASKS), bool),
    )
    module = models.create("deeplabv3plus_resnet18", num_classes=TASKS, axis_name=DATA_AXIS)
    folder.mkdir(exist_ok=True)
    state = fit(
        folder.name,
        init=initial_variables(module, size),
        loss=segmentation_loss(module, IMAGENET, augmented=True),
        optimizer=optim.adam(1e-3),
        batches=batches(shuffled(examples, seed=0), batch_size=batch),
        batch_size=batch,
        steps=steps,
        seed=0,
        directory=folder,
        checkpoint_every=steps,
        mesh=data_mesh(jax.devices()[:1]),
    )
    leaves = jax.tree.leaves((state.params, state.model_state, state.opt_state))
    print(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest())


def _setting(dtype: str, tiny: bool) -> Setting:
    mesh = data_mesh(jax.devices()[:1])
    if not tiny:
        return Setting(mesh, dtype)
    setting = Setting(mesh, dtype, batch=2)
    setting.config.data.size = setting.config.moco.size = 64
    setting.config.moco.norm_group, setting.config.irnet.radius = 1, 3
    return setting


def _call_of(program: Program) -> Callable[[], Any]:
    """Call a program on values of its arguments' shapes; a training step continues from its own state."""
    draw = np.random.default_rng(0)

    def value(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(jax.random.key(0), leaf.sharding)
        if leaf.dtype == np.uint8:
            values = draw.integers(0, 256, leaf.shape)
        elif not jnp.issubdtype(leaf.dtype, jnp.floating) or "opt_state" in where:
            values = np.full(leaf.shape, leaf.dtype == bool)
        elif where.endswith("kernel"):  # He's scale, so that values stay in range through the layers
            values = draw.standard_normal(leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif where.endswith(("scale", "var", "bias", "mean")):
            values = np.full(leaf.shape, where.endswith(("scale", "var")))
        else:
            values = draw.random(leaf.shape)
        return jax.device_put(np.asarray(values, leaf.dtype), leaf.sharding)

    arguments = list(jax.tree_util.tree_map_with_path(value, program.arguments))

    def call() -> Any:
        result = program.function(*arguments)
        if program.donated:
            arguments[0] = result[0]
        return result

    return call


def _time(call: Callable[[], Any], tiny: bool) -> list[float]:
    """Seconds a call, of each round."""
    rounds, calls = (1, 1) if tiny else (5, 20)
    for _ in range(2):
        jax.block_until_ready(call())
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - start) / calls)
    return seconds


def _milliseconds(seconds: list[float]) -> tuple[str, str]:
    low, middle, high = (1e3 * f(seconds) for f in (min, np.median, max))
    return f"{middle:.3f}", f"{low:.3f} to {high:.3f}"


def _begin(title: str, header: list[str]) -> None:
    print(f"\n## {title}\n\n{jax.devices()[0].device_kind}\n")
    print("\n".join(markdown(header, [])), flush=True)


def _row(cells: list[str]) -> None:
    """Print a row at once: whatever ends the program later, it is there."""
    print(f"| {' | '.join(cells)} |", flush=True)
    say(", ".join(cells))


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


if __name__ == "__main__":
    run_command(main)
