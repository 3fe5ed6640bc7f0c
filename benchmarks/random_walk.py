"""Time IRNet's random walk: our bands against the published code's dense matrix squaring.

    python benchmarks/random_walk.py > benchmarks/results/random_walk_DEVICE.md

80x80 map, ten classes, radius 5, beta 10, 2^8 steps. The dense matrix is squared in float32, by NumPy's BLAS on a CPU
and by XLA elsewhere. Our time includes building the operator from the boundary map; the peer's does not.
"""

import platform
import resource
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chexseg_jax.irnet.random_walk import propagate, transition_matrix
from chexseg_jax.report.tables import markdown

SIDE, CLASSES, BATCH = 80, 10, 16
WALK = {"radius": 5, "beta": 10, "exp_times": 8}


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    cam = rng.random((SIDE, SIDE, CLASSES), np.float32)
    edge = rng.random((SIDE, SIDE), np.float32) ** 3
    before = _peak_megabytes()
    large = rng.random((128, 128, CLASSES), np.float32), rng.random((128, 128), np.float32)
    jax.block_until_ready(propagate(*large, **WALK))
    growth = _peak_megabytes() - before
    compiled = propagate.lower(*large, **WALK).compile().memory_analysis()

    ours, result = _median(lambda: propagate(cam, edge, **WALK), repeats=15)
    on_cpu = jax.default_backend() == "cpu"
    square = np.matmul if on_cpu else jax.jit(jnp.matmul)
    start = (cam * (1 - edge[..., None])).reshape(-1, CLASSES).T
    operators = (start, _dense(edge)) if on_cpu else tuple(map(jax.device_put, (start, _dense(edge))))
    seconds, theirs = _median(lambda: _dense_walk(*operators, square=square), repeats=3)
    difference = np.linalg.norm(result - theirs.T.reshape(cam.shape)) / np.linalg.norm(theirs)
    rows = [
        ["bands (ours)", f"{ours:.4f}", "1", ""],
        [
            f"dense squaring, {'NumPy' if on_cpu else 'XLA'}",
            f"{seconds:.2f}",
            f"{seconds / ours:.0f}",
            f"{difference:.1e}",
        ],
    ]

    print(f"# Random walk, {SIDE}x{SIDE}, {CLASSES} classes, radius 5, beta 10, 256 steps\n")
    device = jax.devices()[0]
    setting = f"{date.today()}, {device.device_kind} ({platform.machine()}), jax {jax.__version__}"
    print(f"{setting}. Medians of 15 runs of ours and 3 of the peer's, each after a warm-up.\n")
    print("\n".join(markdown(["walk", "seconds", "times ours", "relative difference to ours"], rows)))
    cams, edges = (jnp.asarray(np.broadcast_to(x, (BATCH, *x.shape))) for x in (cam, edge))
    seconds, _ = _median(lambda: propagate(cams, edges, **WALK), repeats=5)
    print(f"\nBatch of {BATCH}: {BATCH / seconds:.0f} images per second.")
    print(
        f"\nAt 128x128: the process's peak memory grew by {growth:.0f} MB, including compilation; the program itself "
        f"needs {compiled.temp_size_in_bytes / 1e6:.1f} MB beyond input and output."
    )


def _dense(edge: np.ndarray) -> np.ndarray:
    bands = transition_matrix(jnp.asarray(edge), radius=WALK["radius"], beta=WALK["beta"])
    matrix = np.zeros(bands.shape, np.float32)
    np.add.at(matrix, tuple(np.asarray(bands.indices).T), np.asarray(bands.data))
    return matrix


def _dense_walk(start: Any, matrix: Any, *, square: Callable) -> Any:
    for _ in range(WALK["exp_times"]):
        matrix = square(matrix, matrix)
        # Products of smaller numbers are denormal, and a CPU multiplies those a hundred times more slowly.
        matrix = matrix * (matrix > 1e-19)
    return square(start, matrix)


def _median(walk: Callable, *, repeats: int) -> tuple[float, np.ndarray]:
    result = jax.block_until_ready(walk())  # compiles
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(walk())
        times.append(time.perf_counter() - start)
    return float(np.median(times)), np.asarray(result)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
