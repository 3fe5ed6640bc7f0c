"""Weights to and from PyTorch: one rule for names and one for layouts, strict in both directions.

The PyTorch name of a tensor is its Linen path joined by dots, with `layer1_0` (Linen's name for an item of a list) as
`layer1.0`. The last part depends on the tensor:

=======================  ============  ============  ============
Linen                    shape         PyTorch       shape
=======================  ============  ============  ============
params / kernel          [h, w, i, o]  weight        [o, i, h, w]
params / kernel          [i, o]        weight        [o, i]
params / scale, bias     [c]           weight, bias  [c]
batch_stats / mean, var  [c]           running_*     [c]
=======================  ============  ============  ============

PyTorch counts batches beside each running variance (`num_batches_tracked`), and reads the count only if there is no
momentum. It is dropped here and written as zero.

`files` reads and writes weight files; `python -m chexseg_jax.models.torch_weights` converts them.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from chexseg_jax.errors import InputError
from chexseg_jax.models.zoo import ENCODERS, create

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"
#: Networks by one of their tensors, the deeper ones first.
_SIGNS = {
    "features.denseblock4.denselayer16.conv2.weight": "densenet121",
    "layer3.5.conv3.weight": "resnet50",
    "layer4.1.conv2.weight": "resnet18",
}
#: Permutations of a kernel's axes, by rank.
_TO_TORCH: dict[int, tuple[int, ...]] = {4: (3, 2, 0, 1), 2: (1, 0)}
_FROM_TORCH: dict[int, tuple[int, ...]] = {4: (2, 3, 1, 0), 2: (1, 0)}


def from_torch(name: str, state_dict: Mapping[str, np.ndarray], *, drop_head: bool = False) -> dict[str, Any]:
    """Variables of `models.create(name)` from a state dict of torchvision or segmentation-models-pytorch.

    Args:
      name: of the model. The number of classes follows from the head, the number of input channels from the stem.
      state_dict: every tensor of the peer's `state_dict()`, as numpy arrays of any float type.
      drop_head: leave out a classifier's last layer, if any: the variables of `create(name, num_classes=0)`.

    Returns:
      A dictionary with `params` and `batch_stats`, float32.

    Raises:
      InputError: if a tensor is missing, left over, of another shape, not of floats, or see `check_values`. The first
        two are printed in full.
    """
    network = create(name, num_classes=0)
    tensors = {key: value for key, value in state_dict.items() if not key.endswith("." + _COUNTER)}
    if drop_head and (name not in ENCODERS or network.head is None):
        raise InputError(f"{name} has no head to drop; the classifiers are {', '.join(ENCODERS)}")
    if drop_head:
        head = _torch_name(name, ("params", network.head, "")).removesuffix(".")
        tensors = {key: value for key, value in tensors.items() if not key.startswith(head + ".")}
    expected = _expected(name, network, tensors, headless=drop_head or network.head is None)
    missing = [key for key in expected if key not in tensors]
    left_over = [key for key in tensors if key not in expected]
    if missing or left_over:
        print(f"{name}: missing from the state dict ({len(missing)}): {', '.join(missing) or 'none'}")
        print(f"{name}: left over in the state dict ({len(left_over)}): {', '.join(left_over) or 'none'}")
        raise InputError(
            f"the state dict is not a {name}'s: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(left_over)} left over {left_over[:3]}"
        )
    variables, problems = {}, []
    for key, (path, shape) in expected.items():
        value = np.asarray(tensors[key])
        if not jnp.issubdtype(value.dtype, jnp.floating):
            problems.append(f"{key} is {value.dtype}, not floating-point; save the weights unquantised")
        elif value.shape != shape:
            problems.append(f"{key} has shape {value.shape}, {name} needs {shape}")
        else:
            with np.errstate(over="ignore"):  # infinity, which `check_values` names
                value = value.astype(np.float32)
            check_values({key: value})
            variables[path] = jnp.asarray(
                value.transpose(_FROM_TORCH[value.ndim]) if path[-1] == "kernel" else value
            )
    if problems:
        raise InputError("; ".join(problems))
    return unflatten_dict(variables)


def network_of(state_dict: Mapping[str, np.ndarray]) -> str | None:
    """The classifier whose tensors these seem to be, for `from_torch` to check; None for another network."""
    return next((name for sign, name in _SIGNS.items() if sign in state_dict), None)


def check_values(tensors: Mapping[str, np.ndarray]) -> None:
    """Check the weights of a network, by PyTorch names or Linen paths, that would make it predict empty masks.

    Raises:
      InputError: naming the first tensor with NaN or infinity, or the first running variance below 0.
    """
    for name, value in tensors.items():
        problem = ""
        if not np.isfinite(value).all():
            problem = "holds NaN or infinity"
        elif name.endswith("var") and (value < 0).any():
            problem = "is a running variance and below 0"
        if problem:
            raise InputError(f"{name} {problem}; take weights of a training that did not diverge")


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The PyTorch state dict of `variables`, as numpy arrays: the exact inverse of `from_torch`."""
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
    key = ".".join([re.sub(r"_(?=\d)", ".", module) for module in modules] + [_LEAVES.get(leaf, leaf)])
    if name.endswith("densenet121"):  # torchvision keeps all layers but the head in one module
        key = re.sub(r"^(encoder\.)?(?=conv0|norm|denseblock|transition)", r"\1features.", key)
    return key


def _expected(
    name: str, network: nn.Module, tensors: Mapping[str, np.ndarray], *, headless: bool
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Each PyTorch name's Linen path and PyTorch shape, for the classes and the input channels of `tensors`."""
    num_classes, channels = 0, 3
    if not headless:
        num_classes = np.size(tensors.get(_torch_name(name, ("params", network.head, "bias")), 0))
    if network.stem is not None:
        stem = tensors.get(_torch_name(name, ("params", *network.stem.split("/"), "kernel")))
        channels = 1 if np.shape(stem)[1:2] == (1,) else 3
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    module = create(name, num_classes=num_classes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    expected = {}
    for path, leaf in flatten_dict(shapes).items():
        shape = tuple(leaf.shape[i] for i in _TO_TORCH[leaf.ndim]) if path[-1] == "kernel" else leaf.shape
        expected[_torch_name(name, path)] = path, shape
    return expected
