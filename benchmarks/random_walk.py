"""IRNet's random walk: our bands beside the dense matrix squaring of the published code, in one run.

    python benchmarks/random_walk.py > benchmarks/results/random_walk_DEVICE.md

80x80 map, ten classes, radius 5, beta 10, 2^8 steps. The dense matrix is squared in float32 by NumPy's BLAS (on CPU)
and by XLA; the faster one counts. Building either operator from the boundary map is part of its time.
"""

import platform
import resource
import time
from collections.abc import Callable
from datetime import date
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from chexseg_jax.evaluation.tables import markdown
from chexseg_jax.irnet.random_walk import propagate, transition_matrix

SIDE, CLASSES, BATCH = 80, 10, 16
WALK = {"radius": 5, "beta": 10, "exp_times": 8}


def main() -> None:
    """Prints the tables."""
    rng = np.random.default_rng(0)
    cam = rng.random((SIDE, SIDE, CLASSES), np.float32)
    edge = rng.random((SIDE, SIDE), np.float32) ** 3
    before = _peak_megabytes()
    large = rng.random((128, 128, CLASSES), np.float32), rng.random((128, 128), np.float32)
    jax.block_until_ready(propagate(*large, **WALK))
    grown = _peak_megabytes() - before
    compiled = propagate.lower(*large, **WALK).compile().memory_analysis()

    ours, result = _median(lambda: propagate(cam, edge, **WALK), repeats=15)
    peers = {"dense squaring, XLA": partial(_dense_walk, square=jax.jit(jnp.matmul))}
    if jax.default_backend() == "cpu":
        peers["dense squaring, NumPy"] = partial(_dense_walk, square=np.matmul)
    rows = [["bands (ours)", f"{ours:.4f}", "1", ""]]
    for name, walk in peers.items():
        seconds, theirs = _median(lambda walk=walk: walk(cam, edge), repeats=1)
        apart = np.linalg.norm(result - theirs) / np.linalg.norm(theirs)
        rows.append([name, f"{seconds:.2f}", f"{seconds / ours:.0f}", f"{apart:.1e}"])

    print(f"# Random walk, {SIDE}x{SIDE}, {CLASSES} classes, radius 5, beta 10, 256 steps\n")
    device = jax.devices()[0]
    where = f"{date.today()}, {device.device_kind} ({platform.machine()}), jax {jax.__version__}"
    print(f"{where}. Ours the median of 15 runs, the peers one run after a warm-up.\n")
    print("\n".join(markdown(["walk", "seconds", "times ours", "relative difference to ours"], rows)))
    cams, edges = (jnp.asarray(np.broadcast_to(x, (BATCH, *x.shape))) for x in (cam, edge))
    seconds, _ = _median(lambda: propagate(cams, edges, **WALK), repeats=5)
    print(f"\nBatch of {BATCH}: {BATCH / seconds:.0f} images per second.")
    print(
        f"\nAt 128x128: the process's peak memory grew by {grown:.0f} MB with compiling; the program itself uses "
        f"{compiled.temp_size_in_bytes / 1e6:.1f} MB beside input and output."
    )


def _dense_walk(cam: np.ndarray, edge: np.ndarray, *, square: Callable) -> np.ndarray:
    matrix = transition_matrix(jnp.asarray(edge), radius=WALK["radius"], beta=WALK["beta"]).todense()
    matrix = matrix if square is not np.matmul else np.asarray(matrix)
    for _ in range(WALK["exp_times"]):
        matrix = square(matrix, matrix)
    start = (cam * (1 - edge[..., None])).reshape(-1, CLASSES)
    return np.asarray(square(start.T, matrix)).T.reshape(cam.shape)


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
