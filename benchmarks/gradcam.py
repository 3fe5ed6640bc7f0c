"""Time Grad-CAM of ten classes against pytorch-grad-cam: DenseNet121, 320 px, batch 8.

    python benchmarks/gradcam.py > benchmarks/results/gradcam_DEVICE.md

From normalised floats on the device to maps at image size on the host, each scaled to [0, 1]. The peer runs as its
README shows: the whole batch at once, once per class. Weights are random. After the timing, the command prints the
difference between both tools' maps from the same weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from peers import compare, declare_operators, parser, torch_device

from chexseg_jax.errors import run_command

CLASSES = 10


def main() -> None:
    """Read the command line and run the comparison."""
    arguments = parser(__doc__).parse_args()
    batch, size = (2, 64) if arguments.quick else (8, 320)
    images = np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32)
    tool = partial(peer, images, arguments.threads)
    compare(
        arguments,
        {
            ("float32", "ours"): partial(ours, images),
            ("float32", "pytorch-grad-cam"): tool,
            ("float32", "pytorch-grad-cam, channels_last"): partial(tool, channels_last=True),
        },
        title=f"Grad-CAM of {CLASSES} classes, DenseNet121, {size} px, batch {batch}",
        packages=("torch", "torchvision", "grad-cam"),
    )
    if arguments.side is None:
        difference = _difference(arguments.threads)
        print(f"\nMaps of two 96 px images from the same weights, relative difference: {difference:.1e}.")


def ours(images: np.ndarray, weights: dict[str, np.ndarray] | None = None) -> tuple[str, Callable[[], Any]]:
    """Set up our side: maps [B,H,W,K] of all classes at once."""
    import jax
    import jax.numpy as jnp

    from chexseg_jax import models
    from chexseg_jax.models.torch_weights import from_torch
    from chexseg_jax.saliency.gradcam import grad_cam, scale_to_unit, upsample

    module = models.create("densenet121", num_classes=CLASSES)
    if weights is None:
        variables = jax.jit(module.init)(jax.random.key(0), images[:1])
    else:
        variables = from_torch("densenet121", weights)

    @jax.jit
    def maps(variables: Any, images: Any) -> Any:
        _, raw = grad_cam(module, variables, images)
        return scale_to_unit(upsample(scale_to_unit(raw), images.shape[1:3]))  # twice, as the peer does

    placed = jnp.asarray(images)
    return jax.devices()[0].device_kind, lambda: np.asarray(maps(variables, placed))


def peer(
    images: np.ndarray, threads: int, *, channels_last: bool = False, module: Any = None
) -> tuple[str, Callable[[], Any]]:
    """Set up the peer: K maps [B,H,W], one class after the other."""
    declare_operators()
    import torch
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    device, kind = torch_device(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = (module or _densenet()).to(device, memory_format=layout).eval()
    placed = torch.from_numpy(images).permute(0, 3, 1, 2).to(device, memory_format=layout)

    def run() -> np.ndarray:
        with GradCAM(model=module, target_layers=[module.features[-1]]) as cam:
            return np.stack(
                [
                    cam(input_tensor=placed, targets=[ClassifierOutputTarget(k)] * len(images))
                    for k in range(CLASSES)
                ]
            )

    return kind, run


def _densenet() -> Any:
    declare_operators()
    import torchvision

    class DenseNet(torchvision.models.DenseNet):
        """torchvision's network without its in-place ReLU, which would overwrite the activation the tool stores."""

        def forward(self, x: Any) -> Any:
            return self.classifier(self.features(x).relu().mean((2, 3)))

    return DenseNet(32, (6, 12, 24, 16), 64, num_classes=CLASSES)


def _difference(threads: int) -> float:
    images = np.random.default_rng(1).standard_normal((2, 96, 96, 3), np.float32)
    module = _densenet()
    _, peer_maps = peer(images, threads, module=module)
    _, our_maps = ours(images, {name: value.cpu().numpy() for name, value in module.state_dict().items()})
    expected = np.moveaxis(peer_maps(), 0, -1)
    return float(np.linalg.norm(our_maps() - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    run_command(main)
