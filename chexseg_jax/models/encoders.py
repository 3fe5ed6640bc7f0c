"""An encoder's weights, of whatever network: into another network that has it as a part, and its input channels."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from chexseg_jax.errors import InputError


def with_encoder(
    variables: Mapping[str, Any],
    classifier_variables: Mapping[str, Any],
    *,
    head: str | None,
    part: str = "encoder",
) -> dict[str, Any]:
    """A network's variables with a classifier's encoder: its parameters and running statistics, if it has any.

    Args:
      variables: of a network whose encoder is called `part`.
      classifier_variables: of a classifier with the same encoder.
      head: the name of the classifier's head, which is left out (`module.head`).
      part: "encoder" of a `Segmenter` or of MoCo's `Embedder`, "resnet50" of an IRNet.

    Raises:
      InputError: if the encoders differ, naming each tensor that is missing, left over or of another shape.
    """
    result = dict(variables)
    for collection in ("params", "batch_stats"):
        old = flatten_dict(variables.get(collection, {}).get(part, {}), sep="/")
        new = flatten_dict(classifier_variables.get(collection, {}), sep="/")
        new = {name: value for name, value in new.items() if name.split("/")[0] != head}
        problems = [f"{name} is missing" for name in sorted(old.keys() - new.keys())]
        problems += [f"{name} is left over" for name in sorted(new.keys() - old.keys())]
        problems += [
            f"{name} has shape {new[name].shape}, not {old[name].shape}"
            for name in sorted(old.keys() & new.keys())
            if new[name].shape != old[name].shape
        ]
        if problems:
            raise InputError(f"not the encoder's {collection}: {'; '.join(problems)}")
        if new:
            result[collection] = variables[collection] | {part: unflatten_dict(new, sep="/")}
    return result


def input_channels(module: nn.Module, variables: Mapping[str, Any]) -> int:
    """Channels of the images that a network takes, by its stem; 3 if it names none."""
    if module.stem is None:
        return 3
    return flatten_dict(variables["params"], sep="/")[f"{module.stem}/kernel"].shape[2]
