"""Weights to and from PyTorch: one rule of names and one of layouts, strict in both directions.

A Linen path joined by dots is the PyTorch name, once `layer1_0` (so Linen numbers a list) reads `layer1.0`.
The last part says what the tensor is:

| Linen                  | shape        | PyTorch        | shape        |
|------------------------|--------------|----------------|--------------|
| params / kernel        | [h, w, i, o] | weight         | [o, i, h, w] |
| params / kernel        | [i, o]       | weight         | [o, i]       |
| params / scale, bias   | [c]          | weight, bias   | [c]          |
| batch_stats / mean, var| [c]          | running_*      | [c]          |

PyTorch counts batches beside each running variance (`num_batches_tracked`) and reads the count only where there is
no momentum, so it is dropped here and written as zero.

`files` reads and writes files as PyTorch's users keep them; `python -m chexseg_jax.models.torch_weights` converts them.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from chexseg_jax.errors import InputError
from chexseg_jax.models.zoo import create

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"
#: How a kernel's axes are permuted, by rank.
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}


#: What a network's last layer is called, where there is one.
_HEADS = {"resnet18": "fc", "resnet50": "fc", "densenet121": "classifier"}


def from_torch(name: str, state_dict: Mapping[str, np.ndarray], *, drop_head: bool = False) -> dict[str, Any]:
    """Variables of `models.create(name)` from a state dict of torchvision or segmentation-models-pytorch.

    Args:
      name: of the model. Its number of classes is read off the head, its number of input channels off the stem.
      state_dict: every tensor of the peer's `state_dict()`, as numpy arrays of any float type.
      drop_head: leaves a classifier's last layer out, there or not: the variables of `create(name, num_classes=0)`.

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32.

    Raises:
      InputError: where a tensor is missing, left over or of another shape. The first two are printed in full.
    """
    given = {key: value for key, value in state_dict.items() if not key.endswith("." + _COUNTER)}
    if drop_head:
        if name not in _HEADS:
            raise InputError(f"a {name} has no head to drop; the classifiers have: {', '.join(_HEADS)}")
        given = {key: value for key, value in given.items() if not key.startswith(_HEADS[name] + ".")}
    heads = [key for key in ("fc.bias", "classifier.bias", "segmentation_head.0.bias") if key in given]
    num_classes = len(given[heads[0]]) if heads else int(name != "irnet" and not drop_head)
    stems = [np.shape(value) for value in given.values() if np.shape(value)[2:] == (7, 7)]
    expected = _expected(name, num_classes, 1 if stems and stems[0][1] == 1 else 3)
    missing = [key for key in expected if key not in given]
    left_over = [key for key in given if key not in expected]
    if missing or left_over:
        print(f"{name}: missing from the state dict ({len(missing)}): {', '.join(missing) or 'none'}")
        print(f"{name}: left over in the state dict ({len(left_over)}): {', '.join(left_over) or 'none'}")
        raise InputError(
            f"the state dict is not a {name}'s: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(left_over)} left over {left_over[:3]}"
        )
    variables, problems = {}, []
    for key, (path, shape) in expected.items():
        value = np.asarray(given[key], np.float32)
        if value.shape != shape:
            problems.append(f"{key} has shape {value.shape}, {name} needs {shape}")
        elif path[-1] == "kernel":
            value = value.transpose(_FROM_TORCH[value.ndim])
        variables[path] = jnp.asarray(value)
    if problems:
        raise InputError("; ".join(problems))
    return unflatten_dict(variables)


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch state dict of `variables`, as numpy: the exact inverse of `from_torch`."""
    state = {}
    for path, value in flatten_dict(variables).items():
        value = np.asarray(value)
        if path[-1] == "kernel":
            value = value.transpose(_TO_TORCH[value.ndim])
        key = _torch_name(name, path)
        state[key] = np.ascontiguousarray(value)
        if path[-1] == "var":
            state[key.removesuffix("running_var") + _COUNTER] = np.zeros((), np.int64)
    return state


def _torch_name(name: str, path: tuple[str, ...]) -> str:
    """("params", "layer1_0", "conv1", "kernel") is "layer1.0.conv1.weight"."""
    _, *modules, leaf = path
    key = ".".join([re.sub(r"_(?=\d)", ".", module) for module in modules] + [_LEAVES[leaf]])
    # torchvision wraps a DenseNet's layers, all but the head.
    return f"features.{key}" if name == "densenet121" and modules != ["classifier"] else key


@cache
def _expected(
    name: str, num_classes: int, channels: int
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Each PyTorch name's Linen path and PyTorch shape."""
    module = create(name, num_classes=num_classes)
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    expected = {}
    for path, leaf in flatten_dict(shapes).items():
        shape = tuple(leaf.shape[i] for i in _TO_TORCH[leaf.ndim]) if path[-1] == "kernel" else leaf.shape
        expected[_torch_name(name, path)] = path, shape
    return expected
