"""Topologies give the same: one device, two, and two processes of two devices each, which are real processes here.

This file is also the program that those processes run: `python test_distributed.py DIRECTORY SESSION [PORT PROCESS]`.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import ImageSource
from chexseg_jax.data.transforms import CHEXPERT
from chexseg_jax.errors import InputError
from chexseg_jax.models.deeplab import ASPP
from chexseg_jax.models.layers import BatchNorm, Conv, Kit, max_pool, resize_bilinear
from chexseg_jax.models.moco import Embedder
from chexseg_jax.stages.artifact import artifact
from chexseg_jax.stages.classifier import classifier_loss, init, logits_of
from chexseg_jax.stages.irnet import boundary_loss
from chexseg_jax.stages.moco import moco_init, moco_loss
from chexseg_jax.stages.segmentation import segmentation_loss
from chexseg_jax.training import distributed, loop, optim
from chexseg_jax.training.checkpoint import restore, save_model
from chexseg_jax.training.inference import map_batches
from chexseg_jax.training.metrics_log import read_metrics
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh

ROOT = Path(__file__).parents[2]
STEPS, BATCH, SIZE, ROWS = 20, 16, 32, 40
TRAININGS = ("classifier", "segmentation", "irnet", "moco")
DRAW = np.random.default_rng(0)
ARRAYS = {
    "image": DRAW.integers(0, 256, (ROWS, SIZE, SIZE), dtype=np.uint8),
    "targets": DRAW.integers(0, 2, (ROWS, 14)).astype(np.float32),
    "weights": DRAW.integers(0, 2, (ROWS, 14)).astype(np.float32),
    "masks": DRAW.integers(0, 1024, (ROWS, SIZE, SIZE), dtype=np.uint16),
    "seeds": DRAW.integers(0, 1024, (ROWS, SIZE // 4, SIZE // 4), dtype=np.uint32) * 0x10001,
}


class Rows:
    """Random access to some of `ARRAYS`."""

    def __init__(self, *names: str):
        self.names = names

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict:
        return {name: ARRAYS[name][row] for name in self.names}


class Tiny(nn.Module):
    """A convolution and its normalisation, then what a training needs of a network."""

    head: str
    axis_name: str | None = DATA_AXIS

    @nn.compact
    def __call__(self, images, train=False):
        x = max_pool(Conv(8, 3, 2)(images))
        if self.head == "irnet":  # whose statistics are frozen
            x = nn.relu(nn.GroupNorm(2)(BatchNorm()(x, False)))
            return None, {"edge": Conv(1, use_bias=True)(x), "displacement": Conv(2)(x)}
        x = BatchNorm(self.axis_name)(x, train, relu=True)
        if self.head == "segmentation":
            x = ASPP(8, 0.5, Kit(axis_name=self.axis_name))(x, train)
            return resize_bilinear(Conv(10)(x), (SIZE, SIZE), align_corners=True), {}
        return nn.Dense(14)(x.mean((1, 2))), {"features": x}


def training(name: str) -> dict:
    """What `fit` takes for it: the losses and optimizers are the stages' own."""
    module = Tiny(name, None if name == "moco" else DATA_AXIS)
    start = init(module, SIZE)
    match name:
        case "classifier":
            infer = logits_of(module, CHEXPERT)

            def evaluate(variables):
                logits = map_batches(infer, variables, ImageSource(ARRAYS["image"]), batch_size=16)
                return {"spread": float(np.concatenate(list(logits)).std())}

            own = {
                "loss": classifier_loss(module, CHEXPERT, augmented=True),
                "optimizer": optim.adam(1e-3),
                "evaluate": evaluate,
                "best": "spread",
            }
            names = ("image", "targets", "weights")
        case "segmentation":
            own = {
                "loss": segmentation_loss(module, CHEXPERT, augmented=True),
                "optimizer": optim.adam(1e-3),
            }
            names = ("image", "masks")
        case "irnet":
            own = {
                "loss": boundary_loss(module, CHEXPERT, radius=3, augmented=True),
                "optimizer": optim.sgd(0.1, steps=STEPS),
            }
            names = ("image", "seeds")
        case "moco":
            embedder = Embedder(module)
            start = moco_init(embedder, SIZE, queue=3 * BATCH)
            settings = {"temperature": 0.2, "key_momentum": 0.9, "norm_group": 2, "crop": 0.5, "size": SIZE}
            own = {
                "loss": moco_loss(embedder, CHEXPERT, **settings),
                "optimizer": optim.sgd_cosine(0.03, steps=STEPS),
            }
            names = ("image",)
    stream = batches(shuffled(Rows(*names), seed=0), batch_size=BATCH)
    return {"init": start, "batches": stream, "batch_size": BATCH, "seed": 0, "checkpoint_every": 5, **own}


def fit(name: str, directory: Path, steps: int, devices: int):
    """Trains `name` below `directory`, or goes on there."""
    mesh = data_mesh(jax.devices()[:devices])
    return loop.fit(name, steps=steps, directory=directory / name, mesh=mesh, **training(name))


def two_processes(directory: Path) -> dict:
    """What is done on two processes; every one returns what it saw."""
    from training import test_loop

    for name in TRAININGS:
        fit(name, directory / "processes", STEPS, 4)
        fit(name, directory / "chain", 15, 4)

    def make(part: Path) -> None:
        state = fit("classifier", part, 5, 4)
        about = {"name": "resnet18", "num_classes": 14, "options": {}, "size": SIZE, "tasks": ()}
        save_model(part, state.variables, normalisation=CHEXPERT, **about)

    def alone(part: Path) -> None:
        (part / f"made by {jax.process_index()}").touch()

    seen = {"step": 0}
    artifact(directory / "store", "together", {}, make, collective=True)
    folder = artifact(directory / "store", "alone", {}, alone)
    seen["alone"] = [path.name for path in folder.glob("made by *")]

    def fails(part: Path) -> None:
        raise InputError("no such file")

    try:
        artifact(directory / "store", "fails", {}, fails)
    except InputError as error:
        seen["failure"] = str(error)

    loop._LOG_EVERY = 4
    stream = batches(shuffled(test_loop.Points(), seed=0), batch_size=8)
    if jax.process_index() == 1:
        stream = test_loop.Interrupting(stream, at=6)
    try:
        test_loop.train(directory / "cut", 30, batch_stream=stream)
    except KeyboardInterrupt:
        seen["stopped"] = sorted(path.name for path in (directory / "cut" / "checkpoints").iterdir())
    return seen


def session(directory: Path, which: str) -> dict:
    """One of the programs, in the order in which they run."""
    loop._LOG_EVERY = 1
    if which == "processes":
        return two_processes(directory)
    for name in TRAININGS:
        if which == "before":
            fit(name, directory / "one", STEPS, 1)
            fit(name, directory / "two", STEPS, 2)
            fit(name, directory / "chain", 5, 1)
            fit(name, directory / "chain", 10, 2)
        else:
            fit(name, directory / "chain", STEPS, 1)
    return {}


def launch(directory: Path, which: str, processes: int = 1) -> list[dict]:
    """Runs a session; returns what each of its processes saw."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    cache = {"JAX_COMPILATION_CACHE_DIR": str(directory / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | cache | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, __file__, str(directory), which]
    joins = [[]] if processes == 1 else [[port, str(i)] for i in range(processes)]
    logs = [directory / f"{which}-{i}.log" for i in range(processes)]
    running = [
        subprocess.Popen([*command, *join], env=environment, stderr=log.open("w"), stdout=subprocess.DEVNULL)
        for join, log in zip(joins, logs, strict=True)
    ]
    for process, log in zip(running, logs, strict=True):
        assert process.wait(300) == 0, log.read_text()[-4000:]
    return [json.loads((directory / f"{which}-{i}.json").read_text()) for i in range(processes)]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("topologies")
    launch(directory, "before")
    launch(directory, "processes", 2)
    launch(directory, "after")
    return directory


def losses(directory: Path) -> list[float]:
    lines = [line for line in read_metrics(directory / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line["loss"] for line in lines]


@pytest.mark.parametrize("topology", ["two", "processes", "chain"])
@pytest.mark.parametrize("name", TRAININGS)
def test_losses_do_not_depend_on_the_topology(name, topology, work):
    """`chain` went from one device to two, to two processes of two, and back to one, by its checkpoints."""
    one, other = (losses(work / which / name) for which in ("one", topology))
    np.testing.assert_allclose(other, one, rtol=1e-5)
    assert len(set(one)) == STEPS


if __name__ == "__main__":
    directory, which, *join = sys.argv[1:]
    if join:
        distributed.start(f"localhost:{join[0]}", 2, int(join[1]))
    seen = session(Path(directory), which)
    Path(directory, f"{which}-{jax.process_index()}.json").write_text(json.dumps(seen))
