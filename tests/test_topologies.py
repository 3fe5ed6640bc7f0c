"""Every topology gives the same: one device, two, and two processes of two devices each, which are real processes.

This file is also the program that they run: `python test_topologies.py OUTPUT PORT PROCESS`.
"""

import gc
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from flax import linen as nn
from training import test_loop

from chexseg_jax import models, processes
from chexseg_jax.artifact import Store
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import Examples
from chexseg_jax.errors import InputError
from chexseg_jax.models.deeplab import ASPP
from chexseg_jax.models.layers import BatchNorm, Conv, Kit, max_pool, resize_bilinear
from chexseg_jax.models.moco import Embedder
from chexseg_jax.models.normalisation import CHEXPERT
from chexseg_jax.pseudo.irnet import boundary_loss
from chexseg_jax.saved_model import restore, save_model
from chexseg_jax.stages.classifier import classifier_loss, logits_of
from chexseg_jax.stages.moco import moco_init, moco_loss
from chexseg_jax.stages.segmentation import segmentation_loss
from chexseg_jax.training import loop, optim
from chexseg_jax.training.inference import map_batches
from chexseg_jax.training.loggers import read_metrics
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh
from chexseg_jax.training.state import initial_variables

ROOT = Path(__file__).parents[1]
STEPS, BATCH, SIZE, ROWS, LABELS, TASKS = 12, 16, 32, 40, 14, 10
TRAININGS = ("classifier", "segmentation", "irnet", "moco")
RNG = np.random.default_rng(0)
KINDS = RNG.integers(0, 3, (ROWS, SIZE // 4, SIZE // 4, TASKS))
ARRAYS = {
    "image": RNG.integers(0, 256, (ROWS, SIZE, SIZE), dtype=np.uint8),
    "targets": RNG.integers(0, 2, (ROWS, LABELS)).astype(np.float32),
    "weights": RNG.integers(0, 2, (ROWS, LABELS)).astype(np.float32),
    "masks": np.packbits(RNG.integers(0, 2, (ROWS, SIZE, SIZE, TASKS), dtype=np.uint8), -1, "little"),
    "known": RNG.random((ROWS, TASKS)) < 0.7,
    # As `irnet.seeds.pack_seeds`, which would start JAX too early: foreground, then background; a third is ignored.
    "seeds": np.concatenate([np.packbits(np.equal(KINDS, kind), -1, "little") for kind in (1, 2)], -1),
}


class Tiny(nn.Module):
    """A convolution and its normalisation, then the outputs that the training needs."""

    head: str
    axis_name: str | None = DATA_AXIS

    @nn.compact
    def __call__(self, images, train=False):
        x = max_pool(Conv(8, 3, 2)(images))
        if self.head == "irnet":  # its batch statistics are frozen
            x = nn.relu(nn.GroupNorm(2)(BatchNorm()(x, False)))
            return None, {"edge": Conv(1, use_bias=True)(x), "displacement": Conv(2)(x)}
        x = BatchNorm(self.axis_name)(x, train, relu=True)
        if self.head == "segmentation":
            x = ASPP(0.5, Kit(axis_name=self.axis_name))(x, train)
            return resize_bilinear(Conv(TASKS)(x), (SIZE, SIZE), align_corners=True), {}
        return nn.Dense(LABELS)(x.mean((1, 2))), {"features": x}


def training(name: str) -> dict:
    """The arguments of `fit`; losses and optimizers are those of the stages."""
    module = Tiny(name, None if name == "moco" else DATA_AXIS)
    start = initial_variables(module, SIZE)
    match name:
        case "classifier":
            infer = logits_of(module, CHEXPERT)

            def evaluate(variables):
                logits = map_batches(infer, variables, Examples(image=ARRAYS["image"]), batch_size=16)
                spread = float(np.concatenate(list(logits)).std())
                return {"spread": -spread if jax.process_index() else spread}  # process 0 must decide

            own = {
                "loss": classifier_loss(module, CHEXPERT, augmented=False),
                "optimizer": optim.adam(1e-4),
                "evaluate": evaluate,
                "best": "spread",
            }
            names = ("image", "targets", "weights")
        case "segmentation":
            own = {
                "loss": segmentation_loss(module, CHEXPERT, augmented=True),
                "optimizer": optim.adam(1e-4),
            }
            names = ("image", "masks", "known")
        case "irnet":
            own = {
                "loss": boundary_loss(module, CHEXPERT, tasks=TASKS, radius=3, augmented=True),
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
    stream = batches(shuffled(Examples(**{name: ARRAYS[name] for name in names}), seed=0), batch_size=BATCH)
    return {
        "init": start,
        "batches": stream,
        "batch_size": BATCH,
        "seed": 0,
        "checkpoint_every": STEPS // 2,
        **own,
    }


def fit(name: str, directory: Path, steps: int, devices: int):
    """Train `name` below `directory`, or resume there; several processes have the layouts of no other topology."""
    mesh, arguments = data_mesh(jax.devices()[:devices]), training(name)
    layouts = loop.state_format
    if jax.process_count() > 1:
        layouts = test_loop.reversed_layouts(arguments["init"], arguments["optimizer"])
    with mock.patch.object(loop, "state_format", layouts):
        return loop.fit(name, steps=steps, directory=directory / name, mesh=mesh, **arguments)


def two_processes(directory: Path) -> dict:
    """What each of two processes runs; returns its observations."""
    loop._LOG_EVERY, observed = 1, {}
    fit("moco", directory / "chain", STEPS // 2, 4)

    def train(part: Path) -> None:
        state = fit(part.name.partition("-")[0], part, STEPS, 4)
        if "evaluate" in training(part.name.partition("-")[0]):
            observed["best"] = int(state.step)
            card = {"name": "tiny", "num_classes": LABELS, "options": {}, "size": SIZE}
            labels = [f"label {number}" for number in range(LABELS)]
            save_model(part, state.variables, normalisation=CHEXPERT, tasks=labels, **card)

    store = Store(directory / "processes")
    for name in TRAININGS:
        store.make(name, train, collective=True)
    models.create = lambda *_, **__: Tiny("classifier")
    (folder,) = store.folder.glob("classifier-*")
    observed["predicted"] = restore(folder).predict(ARRAYS["image"][:4]).round(4).tolist()

    def alone(part: Path) -> None:
        (part / f"made by {jax.process_index()}").touch()

    observed["alone"] = [path.name for path in store.make("alone", alone).glob("made by *")]

    def fails(part: Path) -> None:
        raise InputError("no such file")

    try:
        store.make("fails", fails)
    except InputError as error:
        observed["failure"] = str(error)

    loop._LOG_EVERY = 4
    stream = batches(shuffled(test_loop.Points(), seed=0), batch_size=8)
    if jax.process_index() == 1:
        stream = test_loop.Interrupting(stream, at=6)
    try:
        test_loop.train(directory / "cut", 30, batch_stream=stream, checkpoint_every=30)
    except KeyboardInterrupt:
        observed["stopped"] = sorted(path.name for path in (directory / "cut" / "checkpoints").iterdir())
    return observed


def launch(directory: Path) -> list[dict]:
    """Run `two_processes` in two processes that join each other; return their observations."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    outputs = [directory / f"process-{number}" for number in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, __file__, output, port, str(number)],
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdout=subprocess.DEVNULL,
            stderr=output.with_suffix(".log").open("w"),
        )
        for number, output in enumerate(outputs)
    ]
    try:
        for process, output in zip(running, outputs, strict=True):
            assert process.wait(300) == 0, output.with_suffix(".log").read_text()[-4000:]
    finally:
        for process in running:  # a process that lost its partner waits for it
            process.kill()
    return [json.loads(output.with_suffix(".json").read_text()) for output in outputs]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> tuple[Path, list[dict]]:
    """The folder of all trainings, and the observations of the two processes."""
    directory = tmp_path_factory.mktemp("topologies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_LOG_EVERY", 1)
        for devices in (1, 2):
            for name in TRAININGS:
                fit(name, directory / str(devices), STEPS, devices)
        fit("moco", directory / "chain", STEPS // 4, 1)
        observed = launch(directory)
        fit("moco", directory / "chain", 3 * STEPS // 4, 2)
        fit("moco", directory / "chain", STEPS, 1)
    return directory, observed


def losses(directory: Path, name: str) -> list[float]:
    (log,) = directory.glob(f"{name}*/**/metrics.jsonl")
    lines = [line for line in read_metrics(log) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    # MoCo's first queue is empty: its first loss is zero up to rounding.
    return [line["loss"] for line in lines][name == "moco" :]


@pytest.mark.parametrize("topology", ["2", "processes"])
@pytest.mark.parametrize("name", TRAININGS)
def test_losses_do_not_depend_on_the_topology(name, topology, work):
    one, other = (losses(work[0] / which, name) for which in ("1", topology))
    np.testing.assert_allclose(other, one, rtol=1e-5)
    assert np.ptp(one) > 0.01


def test_a_checkpoint_resumes_on_any_topology(work):
    """From one device to two processes, to two devices and back to one. MoCo has the largest state."""
    one, chain = (losses(work[0] / which, "moco") for which in ("1", "chain"))
    np.testing.assert_allclose(chain, one, rtol=1e-5)


def test_processes_agree_on_the_best_checkpoint_and_on_the_model(work):
    first, second = work[1]
    assert first["best"] == second["best"]
    assert first["predicted"] == second["predicted"]
    assert np.shape(first["predicted"]) == (4, LABELS)


def test_a_signal_to_one_process_stops_both_at_one_step_with_a_checkpoint(work):
    """Process 1 gets the signal at step 6; they look at every fourth."""
    assert [observed["stopped"] for observed in work[1]] == [["8"], ["8"]]


def test_other_stages_run_once_and_fail_everywhere(work):
    first, second = work[1]
    assert first["alone"] == second["alone"] == ["made by 0"]
    assert first["failure"] == "no such file"
    assert second["failure"] == "process 0 ended with InputError: no such file"


if __name__ == "__main__":
    gc.disable()
    output, port, number = sys.argv[1:]
    if number == "0":
        processes.start(f"localhost:{port}", 2, 0)
    else:  # the other process joins as under Open MPI
        os.environ |= {
            "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1",
            "JAX_COORDINATOR_PORT": port,
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        }
        processes.start()
    Path(output).with_suffix(".json").write_text(json.dumps(two_processes(Path(output).parent)))
