"""Pseudo-labelling from end to end: images a second and peak memory, for N images and for ten times as many.

    python benchmarks/pseudo_labelling.py --images 2000 --dtype bfloat16 > benchmarks/results/pseudo_labelling_DEVICE.md

A prepared set of noise at 320 px goes through DenseNet121 of random weights, Grad-CAM of ten classes, thresholds tuned
on twenty expert images, run-length code, and lies as ArrayRecord on disk: the stages that a run takes, on one machine.
Every size has a process of its own.
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

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.data.prepared import CODES, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.taxonomy import LABELS
from chexseg_jax.models.normalisation import CHEXPERT
from chexseg_jax.report.tables import markdown, number
from chexseg_jax.saved_model import save_model
from chexseg_jax.stages.cams import make_cams
from chexseg_jax.stages.pseudo_masks import make_pseudo_masks

SIZE, EXPERT = 320, 20


def main() -> None:
    """Prints the table; with `--measure FOLDER` labels one set, and prints its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="N; 10 N are labelled too")
    parser.add_argument("--batch", type=int, default=64, help="images of one forward pass")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(_measure(given.measure, given.images, given.batch, given.dtype)))
        return
    found = {count: _in_a_process(count, given) for count in (given.images, 10 * given.images)}
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
    header = ["images", "seconds", "images/s", "peak host MB", "peak device MB", "kB of masks an image"]
    print(f"# Pseudo-labelling at {SIZE} px, DenseNet121 in {given.dtype}, batch {given.batch}\n")
    print(
        f"{date.today()}, {many['where']} ({platform.machine()}), jax {jax.__version__}, array-record "
        f"{version('array-record')}. From the start of Grad-CAM to the masks on disk, compilation included.\n"
    )
    print("\n".join(markdown(header, rows)))
    rate = 9 * given.images / (many["seconds"] - few["seconds"])
    print(
        f"\nWithout start-up and compilation, from the difference of both rows: {rate:.1f} images a second."
    )


def _in_a_process(count: int, given: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--measure", folder, "--images", str(count)]
        command += ["--batch", str(given.batch), "--dtype", given.dtype]
        _make_sets(Path(folder), count)
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _make_sets(folder: Path, count: int) -> None:
    """`weak` of `count` images, and `expert` with masks."""
    draw = np.random.default_rng(0)
    masks = np.zeros((SIZE, SIZE), np.uint16)
    masks[80:240, 80:240] = (1 << 10) - 1

    def noise(rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        return ({"images": draw.integers(0, 256, (SIZE, SIZE), np.uint8), "masks": masks} for _ in rows)

    for name, n in (("weak", count), ("expert", EXPERT)):
        (folder / name).mkdir()
        codes = {key: CODES[key] for key in (("images",) if name == "weak" else ("images", "masks"))}
        columns = write_rows(folder / name, n, codes, noise)
        ids = tuple(f"patient{i:06d}_study1_view1_frontal" for i in range(n))
        sizes = np.tile(np.array([320, 390], np.int32), (n, 1))
        labels = draw.choice(np.array([1, 0, np.nan], np.float32), (n, 14))
        Prepared(ids, columns["images"], labels, sizes, columns.get("masks")).save(folder / name)


def _measure(folder: Path, count: int, batch: int, dtype: str) -> dict:
    options = {"dtype": dtype}
    module = models.create("densenet121", num_classes=len(LABELS), **options)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    (folder / "classifier").mkdir()
    shared = {"num_classes": len(LABELS), "size": SIZE, "tasks": LABELS, "normalisation": CHEXPERT}
    save_model(folder / "classifier", variables, name="densenet121", options=options, **shared)
    start = time.perf_counter()
    sets = {"weak": range(count), "expert": range(EXPERT)}
    cams = ConfigDict({"plus_plus": False, "mirror": False, "batch_size": batch})
    given = {f"{name}_rows": rows for name, rows in sets.items()} | {name: folder / name for name in sets}
    for name, rows in sets.items():
        given[f"{name}_maps"] = make_cams(
            folder / "store", cams, classifier=folder / "classifier", images=folder / name, rows=rows
        )
    config = ConfigDict({"threshold": "tuned", "gate": True})
    made = make_pseudo_masks(folder / "store", config, uncertainty="ignore", **given)
    seconds = time.perf_counter() - start
    device = jax.devices()[0]
    return {
        "seconds": seconds,
        "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "disk": sum(path.stat().st_size for path in (made / "masks").iterdir()),
        "where": device.device_kind,
    }


if __name__ == "__main__":
    main()
