"""Time the input pipeline in radiographs per second, beside torch's DataLoader on the same JPEG files.

    python benchmarks/input_pipeline.py > benchmarks/results/input_pipeline_DEVICE.md

The images are a phantom's, of CheXpert-small's size, in batches of 16. Ours: decoding as in preparing a set (JPEG to
letterboxed uint8), and the prepared cache that all epochs read, also in MoCo's batches and in order, as for Grad-CAM.
The peer: PIL open, RGB, resize, ToTensor, normalise, in every epoch. Ours normalises on the device, and sends one byte
per pixel there; the peer sends twelve.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np

from chexseg_jax import phantom
from chexseg_jax.data.ahead import map_ahead
from chexseg_jax.data.images import fit_image, read_grey
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches, in_order, reader_threads
from chexseg_jax.data.prepared import Examples
from chexseg_jax.data.records import write_rows
from chexseg_jax.report.tables import markdown, number

SIZE, BATCH = 320, 16
PEER = Path(__file__).with_name("dataloader.py")


@dataclass(frozen=True)
class JpegSource:
    """Random access to {"image" [S,S] uint8}, decoded on access."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {"image": fit_image(read_grey(self.paths[row]), SIZE)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has torch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = phantom.make(Path(folder) / "cxr", train=arguments.images, valid=1, test=1, size=SIZE)
        train = root / "CheXpert-v1.0-small" / "train"
        paths = sorted(train.rglob("*.jpg"))
        source = JpegSource(paths)
        decoded = map_ahead(source.__getitem__, range(len(paths)))
        columns = write_rows(Path(folder), len(paths), {"image": "raw"}, lambda _: decoded)
        cache = Examples(image=columns["image"])
        ours = {
            "ours, decoding (first epoch)": _shuffled_rates(source, arguments.epochs, BATCH),
            "ours, prepared cache (every other)": _shuffled_rates(cache, 10 * arguments.epochs, BATCH),
            "ours, prepared cache, batches of 256": _shuffled_rates(cache, 10 * arguments.epochs, 256),
            "ours, prepared cache, in order, batches of 64": _rates(
                batch["image"]
                for _ in range(10 * arguments.epochs)
                for batch, _ in in_order(cache, batch_size=64)
            ),
        }
        peer = _peer(train, arguments)
    theirs = {f"DataLoader, num_workers={n}": tuple(rates) for n, rates in peer.get("rates", {}).items()}
    best = max((per_cpu for _, per_cpu in theirs.values()), default=None)
    rows = [
        [name, f"{rate:,.0f}", f"{per_cpu:,.0f}", number(best and per_cpu / best, 1)]
        for name, (rate, per_cpu) in (ours | theirs).items()
    ]
    header = ["", "images/s", "images per CPU second", "times the DataLoader's best"]
    print(f"# Input pipeline, {len(paths)} JPEGs to batches of {BATCH} at {SIZE} px\n")
    print(
        f"{date.today()}, {os.cpu_count()} cores ({platform.machine()}), grain {version('grain')}, pillow "
        f"{version('pillow')}, {reader_threads()} reader threads, {peer.get('where', 'no torch')}. A CPU second "
        "is one core busy for a second, whatever the number of threads and processes; the last column compares by "
        "it. The DataLoader decodes in every epoch and makes normalised RGB floats; ours makes grey bytes, normalised "
        "on the device, and the cache does not decode.\n"
    )
    print("\n".join(markdown(header, rows)))


def _shuffled_rates(source: Sequence, epochs: int, batch_size: int) -> tuple[float, float]:
    """`_rates` of a training's batches."""
    stream = batches(shuffled(source, seed=0), batch_size=batch_size)
    return _rates(next(stream)["image"] for _ in range(4 + epochs * len(source) // batch_size))


def _rates(stream: Iterator[np.ndarray]) -> tuple[float, float]:
    """Images per second, and images per CPU second, after the first four batches."""
    for _ in range(4):
        next(stream)
    start, used = time.perf_counter(), time.process_time()
    count = sum(map(len, stream))
    return count / (time.perf_counter() - start), count / (time.process_time() - used)


def _peer(folder: Path, arguments: argparse.Namespace) -> dict:
    """The output of dataloader.py; {}, with a message, if torch is not installed."""
    command = [arguments.python, str(PEER), str(folder), str(arguments.epochs)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if "No module named 'torch" in ran.stderr:
        print(
            "without torch and torchvision only ours is timed: pip install -e '.[bench]'",
            file=sys.stderr,
        )
        return {}
    if ran.returncode:
        sys.exit(ran.stderr)
    return json.loads(ran.stdout)


if __name__ == "__main__":
    main()
