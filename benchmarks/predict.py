"""Measure CPU time and memory of `chexseg predict` on images of 2828 x 2320 pixels.

Also of an earlier checkout, or by another environment's JAX:

    python -m benchmarks.predict --before CHECKOUT --also PYTHON > benchmarks/results/predict_cpu.md

The network is a DeepLabv3+ on ResNet18 at 320 px with random weights, thresholds are .5; the images are smooth noise
with grain. Each row is the difference of two processes, one with eight images more: starting and compiling, which take
the same time in both, are given apart.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from benchmarks.peers import jax_of, processor
from chexseg_jax import models
from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.models.normalisation import Normalisation
from chexseg_jax.report.tables import markdown
from chexseg_jax.saved_model import save_model

ROOT = Path(__file__).parents[1]
SIZE, SHAPE, MORE = 320, (2828, 2320), 8
SAVES = (("--save", "json"), (), ("--save", "json,csv,overlays,masks,maps"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--before", type=Path, help="a checkout of an earlier version, whose only --save is none"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="PYTHON",
        help="the interpreter of another environment, whose JAX runs the first row too",
    )
    arguments = parser.parse_args()
    here, before = sys.executable, arguments.before
    versions = [("before", before, (), here)] if before else []
    versions += [(" ".join(flags) or "no --save", ROOT, flags, here) for flags in SAVES]
    versions += [
        (f"{' '.join(SAVES[0])}, {jax_of(python)}", ROOT, SAVES[0], python) for python in arguments.also
    ]
    rows, results = [], []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        _make(scratch)
        for number, (name, checkout, flags, python) in enumerate(versions):
            out = scratch / f"out{number}"
            start, _ = _run(python, checkout, scratch, ["one.jpg"], out / "one", flags)
            seconds, peak = _run(python, checkout, scratch, ["one.jpg", "more"], out / "all", flags)
            rows.append([name, f"{(seconds - start) / MORE:.2f}", f"{start:.1f}", f"{peak / 1e6:.0f}"])
            results.append(read_segmentations(out / "all" / "segmentations.json"))
    print(f"# Prediction of {SHAPE[0]} x {SHAPE[1]} pixels\n")
    print(f"{date.today()}, {processor()}, {os.cpu_count()} cores, jax {jax.__version__}.\n")
    print("\n".join(markdown(["", "CPU s an image", "CPU s of the first", "peak MB"], rows)))
    if before:
        different = [
            np.count_nonzero(results[0].masks(name) != results[2].masks(name)) for name in results[0].ids
        ]
        every = SHAPE[0] * SHAPE[1] * len(CHEXPERT.tasks) * len(different)
        print(
            f"\nPixels that differ from the masks before: {sum(different)} of {every:,}. They are the network's, whose"
        )
        print("rounding depends on the batch: 8 images before, 1 now. The masks of equal maps are equal.")


def _make(scratch: Path) -> None:
    """Write `model/`, `one.jpg`, and more images in `more/`."""
    name = "deeplabv3plus_resnet18"
    module = models.create(name, num_classes=len(CHEXPERT.tasks))
    variables = jax.jit(module.init)(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))
    for folder in ("model", "more"):
        (scratch / folder).mkdir()
    save_model(
        scratch / "model",
        variables,
        name=name,
        num_classes=len(CHEXPERT.tasks),
        options={},
        size=SIZE,
        tasks=CHEXPERT.tasks,
        taxonomy=CHEXPERT,
        normalisation=Normalisation((0.5,) * 3, (0.25,) * 3),
        thresholds=dict.fromkeys(CHEXPERT.tasks, 0.5),
    )
    rng = np.random.default_rng(0)
    for file in ("one.jpg", *(f"more/{number}.jpg" for number in range(MORE))):
        small = gaussian_filter(rng.normal(size=(354, 290)), 12) * 2000 + 128
        grain = rng.normal(size=SHAPE) * 4
        pixels = np.clip(zoom(small, 8, order=1)[: SHAPE[0], : SHAPE[1]] + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(scratch / file, quality=90)


def _run(
    python: str, checkout: Path, scratch: Path, images: list[str], out: Path, flags: tuple
) -> tuple[float, int]:
    """Predict; return the CPU seconds and the peak memory in bytes of that process."""
    command = [python, "-m", "chexseg_jax.predict", "--checkpoint", scratch / "model", "--out", out]
    out.parent.mkdir(exist_ok=True)
    log = (scratch / "log.txt").open("wb")
    child = subprocess.Popen(
        [*command, *(scratch / image for image in images), *flags],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu"},
        stderr=log,
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit((scratch / "log.txt").read_text())
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()
