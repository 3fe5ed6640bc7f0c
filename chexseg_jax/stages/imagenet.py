"""Stage: a ResNet trained on ImageNet, from a file or from a hub."""

import hashlib
from pathlib import Path

from ml_collections import ConfigDict

from chexseg_jax.artifact import artifact
from chexseg_jax.errors import InputError, first_line
from chexseg_jax.models.grey import grey_stem
from chexseg_jax.models.normalisation import IMAGENET
from chexseg_jax.models.torch_weights import files, from_torch
from chexseg_jax.processes import on_first
from chexseg_jax.progress import say
from chexseg_jax.saved_model import save_model

#: torchvision's own files, and the hub's copies of them.
_DOWNLOADS = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
}
_HUB = "timm/{model}.tv_in1k"
#: Where torchvision keeps what it has downloaded.
CACHE = Path("~/.cache/torch/hub/checkpoints")


def import_imagenet(store: Path, config: ConfigDict, *, model: str, size: int) -> Path:
    """Weights of ImageNet's 1000 classes as an artifact.

    Args:
      store: the folder of artifacts.
      config: `weights` (see `find_weights`), `stride_on` ("conv1" for the v1 weights of a ResNet50), `grey` (whether
        the stem's three channels are summed into one).
      model: resnet18 or resnet50.
      size: side of the images it is used on, in pixels.

    Returns:
      The artifact: a model that `chexseg_jax.restore` opens, its head included.

    Raises:
      InputError: where there are no weights, saying what to download and where to put it, or they are not `model`'s.
    """
    file, digest = on_first(_found, config.weights, model)
    key = {
        "model": model,
        "weights": digest,
        "stride_on": config.stride_on,
        "grey": config.grey,
        "size": size,
    }

    def make(part: Path) -> None:
        say(f"imagenet {model}: {file}")
        state, by = files.read(file).state, IMAGENET
        try:
            variables = from_torch(model, state)
        except InputError as error:
            raise InputError(
                f"{file}: {error}; where two networks start from ImageNet give weights=FOLDER, with a file of each"
            ) from None
        if config.grey:
            variables, by = grey_stem(variables, by)
        save_model(
            part,
            variables,
            name=model,
            num_classes=len(variables["params"]["fc"]["bias"]),
            options={"stride_on": config.stride_on},
            size=size,
            tasks=(),
            normalisation=by,
        )

    return artifact(store, f"imagenet-{model}", key, make)


def _found(weights: str, model: str) -> tuple[Path, str]:
    file = find_weights(weights, model)
    return file, hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def find_weights(weights: str, model: str) -> Path:
    """The file with `model`'s ImageNet weights.

    Args:
      weights: a file; or a folder with a file whose name begins with the model's, as torchvision names its own; or
        "" for torchvision's download cache and, failing that, the hub (where huggingface_hub is installed and there
        is a network).
      model: resnet18 or resnet50.

    Raises:
      InputError: where there is none: one line that says what to download and where to put it.
    """
    mend = (
        f"download {_DOWNLOADS[model]} into {CACHE}, or give weights=FILE, "
        f"or pip install huggingface_hub where there is a network"
    )
    folder = Path(weights or CACHE).expanduser()
    if folder.is_file():
        return folder
    if weights and not folder.is_dir():
        raise InputError(f"weights={weights}: no such file or folder; {mend}")
    found = (
        sorted(f for f in folder.glob(f"{model}*") if f.suffix in files.ENDINGS) if folder.is_dir() else []
    )
    if len(found) > 1:
        raise InputError(f"{folder}: {len(found)} files begin with {model}; give one, weights={found[0]}")
    if found:
        return found[0]
    if weights:
        raise InputError(f"weights={weights}: no file in it begins with {model}; {mend}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise InputError(f"no ImageNet weights of a {model} on this machine; {mend}") from None
    name = _HUB.format(model=model)
    try:
        return Path(hf_hub_download(name, "model.safetensors"))
    except Exception as error:  # whatever the network, the proxy or the hub may raise
        raise InputError(f"{name} could not be had from the hub ({first_line(error)}); {mend}") from None
