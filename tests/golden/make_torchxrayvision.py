"""Freeze `models/torchxrayvision.npz`: the logits of torchxrayvision's own DenseNet on the weights of `recipe`.

    pip install torch torchvision torchxrayvision numpy
    python tests/golden/make_torchxrayvision.py

Made with torchxrayvision 1.5.7, torchvision 0.28.0 and torch 2.13.0 on a CPU; the suite needs none of them.

The file holds `pixels` [2,64,64], grey uint8; `logits` [2,18] of `xrv.models.DenseNet()` on these pixels normalised by
`xrv.utils.normalize`; and `targets`, the names of its outputs.
"""

from pathlib import Path

import numpy as np
import recipe
import torch

if not hasattr(
    torch.ops.torchvision, "nms"
):  # torchvision for CUDA beside a torch for CPU: it needs the names alone
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")

import torchxrayvision as xrv

SEED = 7

network = xrv.models.DenseNet().eval()
shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
state = recipe.state(SEED, shapes)
network.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
pixels = recipe.rng(SEED, "xrv_pixels").integers(0, 256, (2, 64, 64), np.uint8)
images = torch.from_numpy(xrv.utils.normalize(pixels, 255)[:, None])
with torch.no_grad():
    logits = network(images).numpy()
file = Path(__file__).parent / "models" / "torchxrayvision.npz"
np.savez(file, pixels=pixels, logits=logits, targets=np.array(network.targets))
