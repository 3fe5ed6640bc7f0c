"""Measure the peak memory of every stage, on a phantom and on one ten times as large; it must not grow with the set.

    python -m benchmarks.memory --images 1000 > benchmarks/results/memory_DEVICE.md

Laptop scale, few steps. Each figure is the peak of a process that ran that stage alone; earlier stages are reused from
the work directory.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.artifact import Store
from chexseg_jax.data.chexpert import positive_tasks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.pseudo.cam import make_cams
from chexseg_jax.pseudo.irnet import train_irnet, walk_maps
from chexseg_jax.report.tables import markdown, number
from chexseg_jax.sources import open_sources
from chexseg_jax.stages.classifier import train_classifier
from chexseg_jax.stages.moco import pretrain_moco
from chexseg_jax.stages.prepare import prepare
from chexseg_jax.stages.pseudo_masks import make_pseudo_masks
from chexseg_jax.stages.segmentation import resolve, train_segmentation
from configs import semi

STEPS, EXPERT = 4, 100


def main() -> None:
    """Print the table; with `--measure STAGE`, run one stage in `--workdir` and print its peaks as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="N; 10 N are run too (1000)")
    parser.add_argument("--workdir", type=Path, help="keep artifacts here; a temporary folder by default")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(_measure(arguments.measure, arguments.workdir, arguments.images)))
        return
    with tempfile.TemporaryDirectory() as folder:
        workdir = arguments.workdir or Path(folder)
        counts = arguments.images, 10 * arguments.images
        peaks = {count: _peaks(workdir, count) for count in counts}
    few, many = peaks.values()
    rows = [
        [stage, *(number(x[stage][kind] and x[stage][kind] / 1e6, 0) for kind in (0, 1) for x in (few, many))]
        for stage in few
    ]
    header = ["stage", *(f"{kind} MB, {count:,} images" for kind in ("host", "device") for count in counts)]
    print("# Peak memory and the size of the training set\n")
    device = jax.devices()[0].device_kind
    print(f"{date.today()}, {device} ({platform.machine()}), jax {jax.__version__}; phantom, laptop scale.\n")
    print("\n".join(markdown(header, rows)))


def _peaks(workdir: Path, count: int) -> dict[str, list[int]]:
    peaks, stage = {}, "phantom"
    while stage:
        command = [sys.executable, "-m", "benchmarks.memory", "--measure", stage, "--workdir", str(workdir)]
        ran = subprocess.run([*command, "--images", str(count)], check=True, stdout=subprocess.PIPE)
        *peaks[stage], stage = json.loads(ran.stdout)
    del peaks["phantom"]
    return peaks


def _measure(stage: str, workdir: Path, count: int) -> tuple[int, int | None, str | None]:
    """Run up to `stage`; return the host and device peaks in bytes, and the next stage's name."""
    stages = _stages(Store(workdir / "artifacts"), count)
    upcoming = next(stages)
    while upcoming != stage:
        upcoming = next(stages)
    following = next(stages, None)
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return host, (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"), following


def _stages(store: Store, count: int) -> Iterator[str]:
    """Yield each stage's name before it runs."""
    config = semi.get_config("pseudo=irnet,root=,scale=laptop")
    config.phantom.update(train=count, valid=EXPERT, test=1)
    for training in (config.classifier, config.trunk, config.moco):
        training.update(epochs=STEPS * training.batch_size / count, checkpoint_every=STEPS)
    for training in (config.irnet, config.segmentation):
        training.update(steps=STEPS, checkpoint_every=STEPS)
    uncertainty = config.data.uncertainty
    yield "phantom"
    sources = open_sources(store, config)
    yield "prepared cache"
    settings = ConfigDict({key: config.data[key] for key in ("size", "views", "max_missing")})
    weak, expert = (
        store.make(f"prepare-{split.name}", prepare, version=2, config=settings, split=split)
        for split in (sources.train, sources.valid)
    )
    labels = {"uncertainty": uncertainty, "weak": weak, "expert": expert, "seed": 0}
    yield f"classifier DenseNet121, {STEPS} steps"
    classifier = store.make("classifier", train_classifier, config=config.classifier, start=None, **labels)
    yield f"MoCo ResNet18, {STEPS} steps"
    store.make("moco", pretrain_moco, config=config.moco, model="resnet18", images=weak, start=None, seed=0)
    yield "Grad-CAM"
    listed = np.flatnonzero(Prepared.load(expert).listed)  # without lateral views and images without findings
    train_rows, validation_rows = np.split(listed, [EXPERT // 2])
    images = Prepared.load(weak)
    weak_rows = np.flatnonzero(positive_tasks(images.labels, uncertainty, images.taxonomy).any(1))
    sets = {"weak": (weak, weak_rows), "expert": (expert, train_rows)}
    maps = {
        name: store.make(
            "cams", make_cams, config=config.cams, classifier=classifier, images=prepared, rows=rows
        )
        for name, (prepared, rows) in sets.items()
    }
    yield f"trunk ResNet50, {STEPS} steps"
    trunk = store.make("trunk", train_classifier, config=config.trunk, **labels)
    yield f"IRNet, {STEPS} steps"
    network = store.make(
        "irnet",
        train_irnet,
        config=config.irnet,
        uncertainty=uncertainty,
        trunk=trunk,
        images=weak,
        rows=weak_rows,
        maps=maps["weak"],
        seed=0,
    )
    yield "walks"
    walks = {
        name: store.make(
            "walks",
            walk_maps,
            config=config.walk,
            network=network,
            images=prepared,
            rows=rows,
            maps=maps[name],
        )
        for name, (prepared, rows) in sets.items()
    }
    yield "pseudo-masks"
    pseudo = store.make(
        "pseudo-masks",
        make_pseudo_masks,
        threshold="tuned",
        gate=True,
        degenerate="keep",
        uncertainty=uncertainty,
        weak=weak,
        weak_rows=weak_rows,
        weak_maps=walks["weak"],
        expert=expert,
        expert_rows=train_rows,
        expert_maps=walks["expert"],
    )
    yield f"segmentation ResNet18, {STEPS} steps"
    store.make(
        "segmentation",
        train_segmentation,
        config=resolve(
            config.segmentation,
            images=len(train_rows) + len(weak_rows),
            epoch=len(train_rows) + len(weak_rows),
        ),
        encoder="resnet18",
        p=0.5,
        expert=expert,
        train_rows=train_rows,
        validation_rows=validation_rows,
        pseudo=pseudo,
        start=None,
        seed=0,
    )


if __name__ == "__main__":
    main()
