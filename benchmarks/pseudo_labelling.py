"""Measure pseudo-labelling end to end: images per second and peak memory, for N images and for ten times as many.

    python benchmarks/pseudo_labelling.py --images 2000 --dtype bfloat16 > benchmarks/results/pseudo_labelling_DEVICE.md

The stages of a run, on one machine: a prepared set of noise at 320 px, DenseNet121 with random weights, Grad-CAM of
ten classes, thresholds tuned on twenty expert images, run-length code, ArrayRecord on disk. Each number of images has a
process of its own.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import CODES, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.taxonomy import CHEXPERT as TAXONOMY
from chexseg_jax.models.normalisation import CHEXPERT
from chexseg_jax.pseudo.cam import make_cams
from chexseg_jax.report.tables import markdown, number
from chexseg_jax.saved_model import save_model
from chexseg_jax.stages.pseudo_masks import make_pseudo_masks

SIZE, EXPERT = 320, 20


def main() -> None:
    """Print the table; with `--measure FOLDER`, label one set and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="N; the second measurement is of 10 N")
    parser.add_argument("--batch", type=int, default=64, help="images per forward pass")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure(arguments.measure, arguments.images, arguments.batch, arguments.dtype)))
        return
    found = {count: _in_a_process(count, arguments) for count in (arguments.images, 10 * arguments.images)}
    few, many = found.values()
    rows = [
        [
            f"{count:,}",
            number(x["seconds"], 1),
            number(count / x["seconds"], 1),
            number(x["host"] / 1e6, 0),
            number(x["device"] and x["device"] / 1e6, 0),
            number(x["disk"] / count / 1e3, 1),
        ]
        for count, x in found.items()
    ]
    header = ["images", "seconds", "images/s", "peak host MB", "peak device MB", "kB of masks per image"]
    print(f"# Pseudo-labelling at {SIZE} px, DenseNet121 in {arguments.dtype}, batch {arguments.batch}\n")
    print(
        f"{date.today()}, {many['where']} ({platform.machine()}), jax {jax.__version__}, array-record "
        f"{version('array-record')}. From the start of Grad-CAM to the masks on disk, compilation included.\n"
    )
    print("\n".join(markdown(header, rows)))
    rate = 9 * arguments.images / (many["seconds"] - few["seconds"])
    print(
        f"\nWithout start-up and compilation, from the difference of both rows: {rate:.1f} images per second."
    )


def _in_a_process(count: int, arguments: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--measure", folder, "--images", str(count)]
        command += ["--batch", str(arguments.batch), "--dtype", arguments.dtype]
        _make_sets(Path(folder), count)
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _make_sets(folder: Path, count: int) -> None:
    """`weak` of `count` images, and `expert` with masks."""
    draw = np.random.default_rng(0)
    squares = np.zeros((SIZE, SIZE, len(TAXONOMY.tasks)), bool)
    squares[80:240, 80:240] = True
    masks = pack_masks(squares)

    def noise(rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        return ({"images": draw.integers(0, 256, (SIZE, SIZE), np.uint8), "masks": masks} for _ in rows)

    for name, n in (("weak", count), ("expert", EXPERT)):
        (folder / name).mkdir()
        codes = {key: CODES[key] for key in (("images",) if name == "weak" else ("images", "masks"))}
        columns = write_rows(folder / name, n, codes, noise)
        ids = tuple(f"patient{i:06d}_study1_view1_frontal" for i in range(n))
        sizes = np.tile(np.array([320, 390], np.int32), (n, 1))
        labels = draw.choice(np.array([1, 0, np.nan], np.float32), (n, len(TAXONOMY.labels)))
        Prepared(ids, columns["images"], labels, sizes, TAXONOMY, columns.get("masks")).save(folder / name)


def _measure(folder: Path, count: int, batch: int, dtype: str) -> dict:
    options = {"dtype": dtype}
    module = models.create("densenet121", num_classes=len(TAXONOMY.labels), **options)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    (folder / "classifier").mkdir()
    shared: dict[str, Any] = {"size": SIZE, "tasks": TAXONOMY.labels, "normalisation": CHEXPERT}
    shared |= {"num_classes": len(TAXONOMY.labels), "options": options}
    save_model(folder / "classifier", variables, name="densenet121", **shared)
    start = time.perf_counter()
    sets = {"weak": np.arange(count), "expert": np.arange(EXPERT)}
    config = ConfigDict({"plus_plus": False, "mirror": False, "batch_size": batch})
    inputs: dict[str, Any] = {}
    for name, rows in sets.items():
        maps = folder / f"{name}-maps"
        maps.mkdir()
        make_cams(maps, config=config, classifier=folder / "classifier", images=folder / name, rows=rows)
        inputs |= {name: folder / name, f"{name}_rows": rows, f"{name}_maps": maps}
    pseudo = folder / "pseudo"
    pseudo.mkdir()
    rules = {"threshold": "tuned", "gate": True, "degenerate": "keep", "uncertainty": "ignore"}
    make_pseudo_masks(pseudo, **rules, **inputs)
    seconds = time.perf_counter() - start
    device = jax.devices()[0]
    return {
        "seconds": seconds,
        "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "disk": sum(path.stat().st_size for path in (pseudo / "masks").iterdir()),
        "where": device.device_kind,
    }


if __name__ == "__main__":
    main()
