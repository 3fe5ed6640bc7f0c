"""The PyTorch peers' weights, inputs and outputs (tests/golden/models), in this package's layout (NHWC)."""

import json
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


@dataclass(frozen=True)
class Peer:
    """One model of the peer: `expected` holds its outputs, in its own layout (NCHW, OIHW)."""

    name: str
    state: dict
    expected: dict
    variables: dict
    module: nn.Module


@cache
def peer(name: str) -> Peer:
    state = recipe.state(SEED, json.loads((FOLDER / f"{name}.shapes.json").read_text()))
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
