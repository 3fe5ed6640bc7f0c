"""The networks: Flax Linen modules, used as pure functions.

`module.apply(variables, images [B,H,W,3] float32, normalised by the caller, train=False) -> (logits, out)`
"""

from chexseg_jax.models import torch_weights
from chexseg_jax.models.zoo import create

__all__ = ["create", "torch_weights"]
