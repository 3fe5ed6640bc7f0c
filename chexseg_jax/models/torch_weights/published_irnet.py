"""Checkpoints of the published IRNet: one name for each tensor.

They are the `state_dict()` of `AffinityDisplacementLoss`, a subclass of the network. The network registers most modules
more than once, and a state dict holds a tensor under each of its names:

======================================  ====================================
name                                    the same tensors as
======================================  ====================================
`stage1.0`, `stage1.1`                  `resnet50.conv1`, `resnet50.bn1`
`stage2.0` to `stage5.0`                `resnet50.layer1` to `layer4`
`backbone.0` to `backbone.4`            `stage1` to `stage5`
`edge_layers.0` to `edge_layers.5`      `fc_edge1` to `fc_edge6`
`dp_layers.0` to `dp_layers.6`          `fc_dp1` to `fc_dp7`
`mean_shift`                            `fc_dp7.4`
======================================  ====================================

The subclass adds indices and targets of its loss, which are no weights.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from chexseg_jax.errors import InputError

#: Beginning of a name -> that of the tensor's own name.
_ALIASES = {
    **{"stage1.0.": "resnet50.conv1.", "stage1.1.": "resnet50.bn1."},
    **{"backbone.0.0.": "resnet50.conv1.", "backbone.0.1.": "resnet50.bn1."},
    **{f"stage{i + 1}.0.": f"resnet50.layer{i}." for i in range(1, 5)},
    **{f"backbone.{i}.0.": f"resnet50.layer{i}." for i in range(1, 5)},
    **{f"edge_layers.{i}.": f"fc_edge{i + 1}." for i in range(6)},
    **{f"dp_layers.{i}.": f"fc_dp{i + 1}." for i in range(7)},
    "mean_shift.": "fc_dp7.4.",
}
#: The loss's own tensors. In its first release they were `ind_from` and `ind_to`, and the mean shift was a BatchNorm,
#: whose variance is never used.
_NO_WEIGHTS = re.compile(r"path_indices\d+|disp_target|ind_from|ind_to|fc_dp7\.4\.running_var")


def is_published_irnet(names: Iterable[str]) -> bool:
    """Whether the names are those of the published IRNet, with or without its aliases."""
    return any(name.startswith(("fc_edge1.", "edge_layers.0.")) for name in names)


def own_tensors(
    state: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[str, ...], tuple[str, ...]]:
    """Keep each tensor once, under its own name, whichever of its names are in the file.

    Returns:
      The tensors, the names that repeat one of them, and the names that hold no weights. Names that are none of the
      network's stay among the tensors.

    Raises:
      InputError: for a name whose tensor differs from the one that it repeats.
    """
    own: dict[str, np.ndarray] = {}
    first: dict[str, str] = {}
    repeated, dropped = [], []
    for name, value in state.items():
        alias = next(filter(name.startswith, _ALIASES), "")
        target = _ALIASES[alias] + name.removeprefix(alias) if alias else name
        if _NO_WEIGHTS.fullmatch(target):
            dropped.append(name)
        elif target not in own:
            own[target], first[target] = value, name
        elif np.array_equal(value, own[target], equal_nan=True):
            repeated.append(name)
        else:
            raise InputError(
                f"{name} differs from {first[target]}, and both are {target} of the published IRNet; save its "
                "state_dict() again"
            )
    return own, tuple(repeated), tuple(dropped)
