"""The PyTorch peers' weights, inputs and outputs (tests/golden/models), in this package's layout (NHWC)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from golden import recipe

from chexseg_jax import models

SEED = 7
FOLDER = Path(__file__).parent / "models"
CLASSIFIERS = ("resnet18", "resnet50", "densenet121")
SEGMENTERS = ("deeplabv3plus_resnet18", "deeplabv3plus_resnet50")


#: For a program that a test runs once or twice: optimising it would take longer than running it.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@cache
def applied(module: nn.Module) -> Callable:
    """`module.apply`, compiled once for all tests that ask for an equal module."""
    return jit(module.apply)


@dataclass(frozen=True)
class Peer:
    """One model of the peer: `expected` holds its outputs, in its own layout (NCHW, OIHW)."""

    name: str
    state: dict
    expected: dict
    variables: dict
    module: nn.Module


def weights(name: str) -> dict:
    """The peer's state dict."""
    return recipe.state(SEED, json.loads((FOLDER / f"{name}.shapes.json").read_text()))


@cache
def peer(name: str) -> Peer:
    state = weights(name)
    with np.load(FOLDER / ("irn.npz" if name == "irnet" else f"{name}.npz")) as arrays:
        expected = dict(arrays)
    options = {"num_classes": 10, "aspp_dropout": 0.0} if name in SEGMENTERS else {"num_classes": 14}
    options = {"num_classes": 0} if name == "irnet" else options
    module = models.create(name, **options)
    return Peer(name, state, expected, models.torch_weights.from_torch(name, state), module)


def irn(key: str) -> np.ndarray:
    """One array of the published IRNet code's outputs."""
    return peer("irnet").expected[key]


def images(name: str, size: int, batch: int) -> jax.Array:
    return jnp.asarray(recipe.inputs(SEED, name, (batch, 3, size, size)).transpose(0, 2, 3, 1))


def labels(shape: tuple[int, ...]) -> jax.Array:
    """0 or 1: class labels [B,K] above 0, masks [B,H,W,K] above 1."""
    if len(shape) == 2:
        return jnp.asarray(recipe.inputs(SEED, "y", shape) > 0, jnp.float32)
    batch, height, width, classes = shape
    masks = recipe.inputs(SEED, "y", (batch, classes, height, width)) > 1
    return jnp.asarray(masks.transpose(0, 2, 3, 1), jnp.float32)


def nchw(x: jax.Array) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


def distance(ours: jax.Array, theirs: jax.Array) -> float:
    """Relative: the norm of the difference over the norm."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def published_irnet(state: dict) -> dict:
    """The `state_dict()` of the published `AffinityDisplacementLoss`, which registers its modules several times."""
    stages = [
        {"0": "resnet50.conv1", "1": "resnet50.bn1"},
        *({"0": f"resnet50.layer{i}"} for i in range(1, 5)),
    ]
    modules = {"mean_shift": "fc_dp7.4"}
    for i, stage in enumerate(stages):
        modules |= {
            f"{where}.{at}": own for where in (f"stage{i + 1}", f"backbone.{i}") for at, own in stage.items()
        }
    modules |= {f"edge_layers.{i}": f"fc_edge{i + 1}" for i in range(6)}
    modules |= {f"dp_layers.{i}": f"fc_dp{i + 1}" for i in range(7)}
    copies = {
        alias + key.removeprefix(own): value
        for alias, own in modules.items()
        for key, value in state.items()
        if key.startswith(f"{own}.")
    }
    buffers = {f"path_indices{i}": np.zeros((3, i + 2, 9), np.int64) for i in range(4)}
    return {"disp_target": np.zeros((1, 2, 34, 1), np.float32)} | buffers | state | copies
