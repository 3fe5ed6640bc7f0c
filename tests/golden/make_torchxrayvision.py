"""Freeze `models/torchxrayvision.npz`: the logits of torchxrayvision's own DenseNet on the weights of `recipe`.

    pip install torch torchvision torchxrayvision numpy
    python tests/golden/make_torchxrayvision.py

Made with torchxrayvision 1.5.7, torchvision 0.28.0 and torch 2.13.0 on a CPU; the suite needs none of them.

The file holds `pixels_64` [2,64,64] and `pixels_224` [1,224,224], grey uint8; `logits_64` and `logits_224` [n,18] of
`xrv.models.DenseNet()` on these pixels normalised by `xrv.utils.normalize`; and `targets`, the names of its outputs.
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
arrays = {"targets": np.array(network.targets)}
for batch, side in ((2, 64), (1, 224)):
    pixels = recipe.rng(SEED, f"xrv_{side}").integers(0, 256, (batch, side, side), np.uint8)
    images = torch.from_numpy(xrv.utils.normalize(pixels, 255)[:, None])
    with torch.no_grad():
        arrays |= {f"pixels_{side}": pixels, f"logits_{side}": network(images).numpy()}
np.savez(Path(__file__).parent / "models" / "torchxrayvision.npz", **arrays)
