"""Time a training step of ours and of PyTorch's: forward, loss, backward, Adam, on one device.

    python benchmarks/training_step.py deeplabv3plus_resnet18 > benchmarks/results/training_deeplab_DEVICE.md
    python benchmarks/training_step.py densenet121 > benchmarks/results/training_densenet_DEVICE.md

Ours is the train loop's step on a stage's loss, from bytes, without augmentation. The peers are
segmentation-models-pytorch's DeepLabV3Plus("resnet18") with the same class-average dice loss (batch 8), and
torchvision's densenet121 with BCE (batch 16), at 320 px, from normalised floats on the device: each unchanged, in
channels_last, and compiled as well; bfloat16 by autocast, fused Adam, TF32 if the device has it. On a GPU give
`--steps 20`: so many steps follow each other without a wait, as in a training.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from peers import compare, declare_operators, parser, torch_device

from chexseg_jax.errors import run_command

BATCHES = {"deeplabv3plus_resnet18": 8, "densenet121": 16}
PEERS = {
    "deeplabv3plus_resnet18": ("torch", "segmentation-models-pytorch"),
    "densenet121": ("torch", "torchvision"),
}
CLASSES = {"deeplabv3plus_resnet18": 10, "densenet121": 14}
LEARNING_RATE = 1e-4


def main() -> None:
    """Read the command line."""
    options = parser(__doc__)
    options.add_argument("model", choices=BATCHES)
    options.add_argument(
        "--steps", type=int, default=1, help="steps in each timed run, one after another (1)"
    )
    arguments = options.parse_args()
    size, batch = (64, 2) if arguments.quick else (320, BATCHES[arguments.model])
    shape = (batch, size, size)
    sides = {}
    for dtype in ("float32", "bfloat16"):
        sides[dtype, "ours"] = partial(ours, arguments.model, shape, dtype, steps=arguments.steps)
        for name, how in {
            "PyTorch": {},
            "PyTorch, channels_last": {"channels_last": True},
            "PyTorch, channels_last, compiled": {"channels_last": True, "compiled": True},
        }.items():
            sides[dtype, name] = partial(
                peer, arguments.model, shape, arguments.threads, dtype, steps=arguments.steps, **how
            )
    compare(
        arguments,
        sides,
        title=f"Training step of {arguments.model}, {size} px, batch {batch}",
        packages=PEERS[arguments.model],
        units=arguments.steps,
    )


def ours(
    model: str, shape: tuple[int, int, int], dtype: str, *, steps: int = 1
) -> tuple[str, Callable[[], Any]]:
    """The train loop's step."""
    import jax
    import jax.numpy as jnp

    from chexseg_jax import models
    from chexseg_jax.models.normalisation import CHEXPERT
    from chexseg_jax.stages.classifier import classifier_loss
    from chexseg_jax.stages.segmentation import segmentation_loss
    from chexseg_jax.training import optim
    from chexseg_jax.training.loop import make_step
    from chexseg_jax.training.sharding import DATA_AXIS, compile_step, data_mesh, replicate, split_batch
    from chexseg_jax.training.state import TrainState, initial_variables

    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, shape, np.uint8)}
    if model == "densenet121":
        answers = (shape[0], CLASSES[model])
        batch |= {
            "targets": rng.integers(0, 2, answers).astype(np.float32),
            "weights": np.ones(answers, np.float32),
        }
        loss_of = classifier_loss
    else:
        classes = CLASSES[model]
        batch["masks"] = rng.integers(0, 256, (*shape, -(-classes // 8)), np.uint8)  # bit-planes
        batch["known"] = np.ones((shape[0], classes), bool)
        loss_of = segmentation_loss
    module = models.create(model, num_classes=CLASSES[model], axis_name=DATA_AXIS, dtype=dtype)
    mesh, optimizer = data_mesh(jax.devices()[:1]), optim.adam(LEARNING_RATE)
    params, model_state = initial_variables(module, shape[1])(jax.random.key(0))
    state = replicate(TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params)), mesh)
    placed, key = split_batch(batch, mesh), jax.random.key(1)
    step = make_step(loss_of(module, CHEXPERT, augmented=False), optimizer, mesh)
    _, step, state = compile_step(step, state, placed, key)

    def run() -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, placed, key)
        jax.block_until_ready(state)

    return jax.devices()[0].device_kind, run


def peer(
    model: str,
    shape: tuple[int, int, int],
    threads: int,
    dtype: str,
    *,
    steps: int = 1,
    channels_last: bool = False,
    compiled: bool = False,
) -> tuple[str, Callable[[], Any]]:
    """PyTorch's step."""
    declare_operators()
    import torch
    import torchvision
    from torch.nn.functional import binary_cross_entropy_with_logits

    device, kind = torch_device(threads)
    classes = CLASSES[model]
    if model == "densenet121":
        module, loss_of = (
            torchvision.models.densenet121(num_classes=classes),
            binary_cross_entropy_with_logits,
        )
        truth = torch.randint(0, 2, (shape[0], classes))
    else:
        import segmentation_models_pytorch as smp

        module, loss_of = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=classes), _dice
        truth = torch.randint(0, 2, (shape[0], classes, *shape[1:]))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(device, memory_format=layout).train()
    images = torch.randn(shape[0], 3, *shape[1:]).to(device, memory_format=layout)
    truth = truth.float().to(device)
    optimizer = torch.optim.Adam(module.parameters(), LEARNING_RATE, fused=True)

    def loss(images: Any, truth: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = module(images)
        return loss_of(logits.float(), truth)

    if compiled:
        loss = torch.compile(loss)

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss(images, truth).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return kind, run


def _dice(logits: Any, masks: Any) -> Any:
    """`training.losses.dice_loss`."""
    probabilities = logits.sigmoid()
    intersection, predicted, truth = (x.sum((0, 2, 3)) for x in (probabilities * masks, probabilities, masks))
    return 1 - ((2 * intersection + 1) / (predicted + truth + 1)).mean()


if __name__ == "__main__":
    run_command(main)
