"""Time pseudo-labelling end to end: images per second and peak memory, for N images and for ten times as many.

    python benchmarks/pseudo_labelling.py --images 2000 --dtype bfloat16 > benchmarks/results/pseudo_labelling_DEVICE.md

A prepared set of noise at 320 px passes through DenseNet121 with random weights, Grad-CAM of ten classes, thresholds
tuned on twenty expert images, and run-length coding, to ArrayRecord on disk: a run's own stages, on one machine. Each
size runs in its own process.
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
from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import CODES, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.models.normalisation import CHEXPERT as NORMALISATION
from chexseg_jax.pseudo.cam import make_cams
from chexseg_jax.report.tables import markdown, number
from chexseg_jax.saved_model import save_model
from chexseg_jax.stages.pseudo_masks import make_pseudo_masks

SIZE, EXPERT = 320, 20


def main() -> None:
    """Print the table; with `--measure FOLDER`, label one set and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="N; 10 N are labelled too (2000)")
    parser.add_argument("--batch", type=int, default=64, help="images per forward pass (64)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure(arguments.measure, arguments.images, arguments.batch, arguments.dtype)))
        return
    results = {count: _in_a_process(count, arguments) for count in (arguments.images, 10 * arguments.images)}
    few, many = results.values()
    rows = [
        [
            f"{count:,}",
            number(x["seconds"], 1),
            number(count / x["seconds"], 1),
            number(x["host"] / 1e6, 0),
            number(x["device"] and x["device"] / 1e6, 0),
            number(x["disk"] / count / 1e3, 1),
        ]
        for count, x in results.items()
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
    """Write the sets `weak`, of `count` images, and `expert`, with masks."""
    draw = np.random.default_rng(0)
    masks = np.zeros((SIZE, SIZE, len(CHEXPERT.tasks)), bool)
    masks[80:240, 80:240] = True
    planes = pack_masks(masks)

    def noise(rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        return ({"images": draw.integers(0, 256, (SIZE, SIZE), np.uint8), "masks": planes} for _ in rows)

    for name, n in (("weak", count), ("expert", EXPERT)):
        (folder / name).mkdir()
        codes = {key: CODES[key] for key in (("images",) if name == "weak" else ("images", "masks"))}
        columns = write_rows(folder / name, n, codes, noise)
        ids = tuple(f"patient{i:06d}_study1_view1_frontal" for i in range(n))
        sizes = np.tile(np.array([320, 390], np.int32), (n, 1))
        labels = draw.choice(np.array([1, 0, np.nan], np.float32), (n, len(CHEXPERT.labels)))
        Prepared(ids, columns["images"], labels, sizes, CHEXPERT, columns.get("masks")).save(folder / name)


def _measure(folder: Path, count: int, batch: int, dtype: str) -> dict:
    options = {"dtype": dtype}
    module = models.create("densenet121", num_classes=len(CHEXPERT.labels), **options)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    (folder / "classifier").mkdir()
    save_model(
        folder / "classifier",
        variables,
        name="densenet121",
        num_classes=len(CHEXPERT.labels),
        options=options,
        size=SIZE,
        tasks=CHEXPERT.labels,
        normalisation=NORMALISATION,
        taxonomy=CHEXPERT,
    )
    start = time.perf_counter()
    rows = {"weak": np.arange(count), "expert": np.arange(EXPERT)}
    cams = ConfigDict({"plus_plus": False, "mirror": False, "batch_size": batch})
    for name, some in rows.items():
        maps = folder / f"{name}_maps"
        maps.mkdir()
        make_cams(maps, config=cams, classifier=folder / "classifier", images=folder / name, rows=some)
    pseudo = folder / "pseudo"
    pseudo.mkdir()
    make_pseudo_masks(
        pseudo,
        threshold="tuned",
        gate=True,
        uncertain="empty",
        uncertainty="ignore",
        weak=folder / "weak",
        weak_rows=rows["weak"],
        weak_maps=folder / "weak_maps",
        expert=folder / "expert",
        expert_rows=rows["expert"],
        expert_maps=folder / "expert_maps",
    )
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
