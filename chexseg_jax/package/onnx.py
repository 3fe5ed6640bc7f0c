"""A model as an ONNX file, by way of its PyTorch peer: torchvision's or segmentation-models-pytorch's network."""

from pathlib import Path
from typing import Any

import numpy as np

from chexseg_jax import models
from chexseg_jax.errors import InputError, first_line
from chexseg_jax.models.torch_weights import to_torch
from chexseg_jax.saved_model import Restored

FILE = "model.onnx"
#: Largest difference between a probability of ours and of the peer.
TOLERANCE = 1e-4


def write_onnx(path: Path, model: Restored) -> None:
    """Write the prediction: grey uint8 `images` [B,S,S] -> sigmoid `probabilities` [B,S,S,K], or [B,L].

    The computation is in float32, whatever the training's was.

    Raises:
      InputError: without the extra `onnx`; for a network that has no such peer, or whose peer computes something else.
    """
    try:
        import onnxscript  # noqa: F401
        import segmentation_models_pytorch  # noqa: F401
        import torch
        import torchvision  # noqa: F401
    except ImportError as error:
        raise InputError(f"--to onnx needs {error.name}; pip install 'chexseg-jax[onnx]'") from None
    program = _program(model)
    images = np.random.default_rng(0).integers(0, 256, (2, *[model.config.size] * 2), dtype=np.uint8)
    with torch.inference_mode():
        theirs = program(torch.from_numpy(images)).numpy()
    if (difference := np.abs(theirs - _ours(model, images)).max()) > TOLERANCE:
        raise InputError(
            f"{model.config.name} with {model.config.options.to_dict()}: its PyTorch peer's probabilities differ by "
            f"{difference:.2g}; ship it with --to stablehlo"
        )
    torch.onnx.export(
        program,
        (torch.from_numpy(images),),
        path,
        dynamo=True,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        external_data=False,
        verbose=False,
    )


def _ours(model: Restored, images: np.ndarray) -> np.ndarray:
    """The prediction in float32."""
    from dataclasses import replace

    options = model.config.options.to_dict()
    if "dtype" in options:
        module = models.create(
            model.config.name, num_classes=model.config.num_classes, **options | {"dtype": "float32"}
        )
        model = replace(model, module=module)
    return model.predict(images)


def _program(model: Restored) -> Any:
    """The peer between the normalisation and the sigmoid, as a torch module."""
    import torch

    network = _peer(model)
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in model.normalisation)
    mirror = bool(model.config.options.get("mirror", False))

    class Program(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any) -> Any:
            x = (images.to(torch.float32)[:, None] / 255 - mean) / std
            logits = self.network(x)
            if mirror:
                logits = (logits + self.network(x.flip(3)).flip(3)) / 2
            probabilities = torch.sigmoid(logits)
            return probabilities.permute(0, 2, 3, 1) if probabilities.ndim == 4 else probabilities

    return Program().eval()


def _peer(model: Restored) -> Any:
    """The peer with the model's weights."""
    import segmentation_models_pytorch as smp
    import torch
    from torchvision import models as torchvision

    name, channels = model.config.name, len(model.normalisation.mean)
    decoder, _, encoder = name.rpartition("_")
    try:
        if decoder:
            network = {"deeplabv3plus": smp.DeepLabV3Plus}[decoder](
                encoder, encoder_weights=None, in_channels=channels, classes=model.config.num_classes
            )
        else:
            network = torchvision.get_model(name, weights=None, num_classes=model.config.num_classes)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{name}: neither torchvision nor segmentation-models-pytorch has this network ({first_line(error)}); ship "
            "it with --to stablehlo"
        ) from None
    if not decoder and channels == 1:
        parent, stem = (network.features, "conv0") if hasattr(network, "features") else (network, "conv1")
        old = getattr(parent, stem)
        new = torch.nn.Conv2d(1, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
        setattr(parent, stem, new)
    if model.config.options.get("stride_on") == "conv1":
        for block in network.modules():
            if hasattr(block, "conv3") and hasattr(block, "downsample"):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    state = {key: torch.from_numpy(np.array(value)) for key, value in to_torch(name, model.variables).items()}
    network.load_state_dict(state)
    return network
