"""Stage: a network trained on ImageNet, from a file or from a hub."""

import hashlib
import logging
import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chexseg_jax.data.provenance import Provenance
from chexseg_jax.errors import InputError, MissingWeightsError, first_line
from chexseg_jax.models import create
from chexseg_jax.models.normalisation import IMAGENET
from chexseg_jax.models.torch_weights import files, from_torch
from chexseg_jax.progress import say
from chexseg_jax.saved_model import save_model

#: torchvision's own files, and the hub's copies of them.
_DOWNLOADS = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "densenet121": "https://download.pytorch.org/models/densenet121-a639ec97.pth",
}
_HUB = "timm/{model}.tv_in1k"
_ONE_FILE = "; if two networks start from ImageNet, give weights=FOLDER with a file of each"


@dataclass(frozen=True)
class WeightsFile:
    """A file of PyTorch weights and the digest of its content, which stands for it in artifacts' names."""

    path: Path
    fingerprint: str


def import_imagenet(part: Path, *, model: str, weights: WeightsFile, stride_on: str, size: int) -> None:
    """Import weights for ImageNet's 1000 classes, head included, as a model that `chexseg_jax.restore` opens.

    Args:
      part: the artifact's folder.
      model: resnet18, resnet50 or densenet121.
      weights: from `find_weights`.
      stride_on: "conv1" for the v1 weights of a ResNet50, else "conv2".
      size: side of the images that it will be used on, in pixels.

    Raises:
      InputError: for a file with other tensors than the model's.
    """
    say(f"imagenet {model}: {weights.path}")
    state = files.read(weights.path).state
    try:
        variables = from_torch(model, state)
    except InputError as error:
        one_file = "" if weights.path.name.startswith(model) else _ONE_FILE
        raise InputError(f"{weights.path}: {error}{one_file}") from None
    save_model(
        part,
        variables,
        name=model,
        num_classes=len(variables["params"][create(model, num_classes=0).head]["bias"]),
        options={"stride_on": stride_on} if model.startswith("resnet") else {},
        size=size,
        tasks=(),
        normalisation=IMAGENET,
        provenance=Provenance(f"ImageNet ({weights.path.name})", synthetic=False),
    )


def find_weights(weights: str, model: str) -> WeightsFile:
    """Find the file with a model's ImageNet weights.

    Args:
      weights: a file; or a folder with a file whose name begins with the model's, as torchvision's do; or "" for
        torchvision's download cache and then the hub (if huggingface_hub is installed and there is a network),
        which a process asks once.
      model: resnet18, resnet50 or densenet121.

    Raises:
      MissingWeightsError: if `weights` is a folder without the network, or "" and neither the cache nor the hub has it.
      InputError: for `weights` that do not exist. Both errors say what to download and where to put it.
    """
    cache = torchvision_cache()
    fix = (
        f"download {_DOWNLOADS[model]} into {cache}, or give weights=FILE, "
        f"or pip install huggingface_hub where there is a network"
        if model in _DOWNLOADS
        else "give weights=FILE"
    )
    folder = Path(os.path.expanduser(weights)) if weights else cache
    if folder.is_file():
        return _digested(folder)
    if weights and not folder.is_dir():
        raise InputError(f"weights={weights}: no such file or folder; {fix}")
    candidates = sorted(f for f in folder.glob(f"{model}*") if f.suffix in files.ENDINGS)
    if len(candidates) > 1:
        raise InputError(
            f"{folder}: {len(candidates)} files begin with {model}; give one, weights={candidates[0]}"
        )
    if candidates:
        return _digested(candidates[0])
    if weights:
        raise MissingWeightsError(f"weights={weights}: no file in it begins with {model}; {fix}")
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise MissingWeightsError(f"no ImageNet weights of a {model} on this machine; {fix}") from None
    found = _on_hub(model)
    if isinstance(found, str):
        raise MissingWeightsError(f"{found}; {fix.partition(', or pip install')[0]}")
    return _digested(found)


@cache  # else each run of a table waits for a network that is not there
def _on_hub(model: str) -> Path | str:
    """The hub's file of a model, or why there is none."""
    from huggingface_hub import hf_hub_download

    name = _HUB.format(model=model)
    say(f"imagenet {model}: asking the hub for {name}; without a network this takes half a minute")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # else each retry is two lines
    try:
        return Path(hf_hub_download(name, "model.safetensors"))
    except Exception as error:  # the network, a proxy or the hub may raise anything
        return f"{name}: download failed ({first_line(error)})"


def torchvision_cache() -> Path:
    """torchvision's download cache, where torch.hub has it; a "~" stays where there is no home directory."""
    torch_home = os.getenv("TORCH_HOME", os.path.join(os.getenv("XDG_CACHE_HOME", "~/.cache"), "torch"))
    return Path(os.path.expanduser(torch_home)) / "hub" / "checkpoints"


def _digested(path: Path) -> WeightsFile:
    try:
        return WeightsFile(path, _digest(path, path.stat().st_mtime_ns))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


@cache  # a table asks for each of its runs
def _digest(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_one_file(weights: str, needs: Sequence[Mapping[str, str]]) -> None:
    """Refuse one file if each run starts several networks: the second would fail after the first one's training.

    Args:
      weights, needs: see `require_weights`.

    Raises:
      InputError: naming the networks.
    """
    if Path(os.path.expanduser(weights)).is_file() and all(len(networks) > 1 for networks in needs):
        raise InputError(
            f"weights={weights}: a file is of one network, and {' and '.join(sorted(needs[0]))} start from ImageNet; "
            "give weights=FOLDER with a file of each"
        )


def require_weights(weights: str, needs: Sequence[Mapping[str, str]]) -> None:
    """Find the weights of the single runs of one configuration, before hours of work.

    Args:
      weights: see `find_weights`.
      needs: of each run, the networks that start from ImageNet -> the argument that avoids it.

    Raises:
      MissingWeightsError: if no run has all of its weights, naming every network without, what to download and where
        to put it.
      InputError: for a wrong `weights=`, see also `check_one_file`.
    """
    check_one_file(weights, needs)
    missing = {}
    for model, instead in ChainMap(*map(dict, needs)).items():
        try:
            find_weights(weights, model)
        except MissingWeightsError as error:
            missing[model] = f"{error}, or give {instead}"
    if all(missing.keys() & networks.keys() for networks in needs):
        every = f"all {len(needs)} runs are absent: " if len(needs) > 1 else ""
        raise MissingWeightsError(f"{every}{'; '.join(missing.values())}")
