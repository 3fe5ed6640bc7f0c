"""Weight files of PyTorch: read into a state dict for `from_torch`, and written.

The reader recognises these sources by their tensors' names:

| source                                         | names                                              |
|------------------------------------------------|----------------------------------------------------|
| torchvision, segmentation-models-pytorch       | unchanged (0.1.x has the names of 0.6)             |
| torchvision's oldest DenseNet files            | `denselayer1.norm.1` for `denselayer1.norm1`       |
| DataParallel, Lightning (`state_dict`)         | below `module.`, `model.`, `model.model.`...       |
| MoCo (`state_dict`), MoCo-CXR                  | below `module.encoder_q.`; `fc` is its projection  |
| the published IRNet                            | several for a tensor; see `published_irnet`        |
"""

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from chexseg_jax.errors import InputError, first_line
from chexseg_jax.files import written_aside
from chexseg_jax.models.torch_weights.published_irnet import is_published_irnet, own_tensors

#: Endings of pickled files, which only torch reads and writes.
PICKLED = (".pth", ".pt", ".ckpt", ".tar", ".bin")
ENDINGS = (".safetensors", ".npz", *PICKLED)
#: Source of a file whose tensors have their own names.
_PLAIN = "torchvision or segmentation-models-pytorch"
#: Wrappers that training code puts around a network, from the outside in.
_WRAPPERS = re.compile(r"((?:module|model|net|network|encoder_q)\.)*")


@dataclass(frozen=True)
class TorchFile:
    """The content of a weight file.

    Attributes:
      state: tensors under the network's own names.
      source: "torchvision or segmentation-models-pytorch", "Lightning", "MoCo" or "the published IRNet", with the
        prefix that was removed.
      dropped: names that belong to the training or to a projection head, not to the network.
      repeated: further names of tensors in `state`.
      card: the JSON beside the file (its `normalisation`...), {} if there is none.
    """

    state: dict[str, np.ndarray]
    source: str
    dropped: tuple[str, ...]
    repeated: tuple[str, ...]
    card: dict[str, Any]


def read(path: str | Path) -> TorchFile:
    """Read weights of any of the sources above; `.safetensors` and `.npz` need no torch.

    A pickled file is read with `weights_only=True`: one that would run code is refused.

    Raises:
      InputError: for a file that is missing, truncated, of another kind, or without tensors; for an IRNet whose copies
        of a tensor differ.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, KeyError, TypeError, OSError) as error:
            raise InputError(
                f"{path}: not a safetensors file, or a truncated one ({first_line(error)})"
            ) from None
    elif path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content = dict(arrays)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise InputError(
                f"{path}: not an npz file of plain arrays, or a truncated one ({first_line(error)})"
            ) from None
    elif path.suffix in PICKLED:
        content = _unpickle(path)
    else:
        raise InputError(f"{path}: must end in {', '.join(ENDINGS)}")
    trained = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
    tensors = content["state_dict"] if trained else content
    state = (
        {str(key): _array(value) for key, value in tensors.items() if hasattr(value, "shape")}
        if isinstance(tensors, Mapping)
        else {}
    )
    if not state:
        raise InputError(f"{path}: holds no named tensors; save the model's state_dict()")
    state, source, dropped = _own_names(state, lightning=trained and "pytorch-lightning_version" in content)
    repeated: tuple[str, ...] = ()
    if is_published_irnet(state):
        try:
            state, repeated, no_weights = own_tensors(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        source, dropped = source.replace(_PLAIN, "the published IRNet"), (*dropped, *no_weights)
    return TorchFile(state, source, dropped, repeated, _read_card(path))


def write(path: str | Path, state: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Write a state dict in the format of the file's ending, and `card` as JSON beside it (`weights.pth.json`).

    Raises:
      InputError: for an unknown ending, or a pickled file without torch.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: must end in {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no folder {path.parent}; create it")
    aside = path.with_name(f".{path.name}.part{path.suffix}")
    arrays: dict[str, Any] = dict(state)
    try:
        if path.suffix == ".safetensors":
            save_file(arrays, aside, metadata={"format": "pt"})
        elif path.suffix == ".npz":
            np.savez(aside, **arrays)
        else:
            torch = _torch(path)
            torch.save({key: torch.from_numpy(np.array(value)) for key, value in state.items()}, aside)
        # The card first: alone it is harmless, but weights without it would be read with the wrong settings.
        with written_aside(_card_of(path)) as file:
            json.dump(dict(card), file, indent=1)
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        aside.unlink(missing_ok=True)


def _unpickle(path: Path) -> Any:
    torch = _torch(path)
    from argparse import Namespace
    from pathlib import PosixPath
    from pickle import UnpicklingError

    try:
        # Lightning keeps its hyperparameters in a Namespace, paths among them.
        with torch.serialization.safe_globals([Namespace, PosixPath]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        function = re.search(r"(?:GLOBAL|global|function) `?([\w.]+)", str(error))
        if function:
            raise InputError(
                f"{path}: its pickle calls {function[1]}, which was not run; save the state_dict() alone"
            ) from None
        raise InputError(f"{path}: not a PyTorch file, or a truncated one ({first_line(error)})") from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise InputError(f"{path}: not a PyTorch file, or a truncated one ({first_line(error)})") from None


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: {path.suffix} files need torch (pip install 'chexseg-jax[torch]'); "
            "safetensors and npz do not"
        ) from None
    return torch


def _array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def _own_names(
    state: dict[str, np.ndarray], *, lightning: bool
) -> tuple[dict[str, np.ndarray], str, tuple[str, ...]]:
    """The state under the network's own names, the source, and the dropped names."""
    # The network's wrapper is the most common one: a loss or a metric beside the network has another, or none.
    prefixes = [key[: match.end()] for key in state if (match := _WRAPPERS.match(key))]
    moco = any(prefix.endswith("encoder_q.") for prefix in prefixes)
    prefix = max(
        (p for p in set(prefixes) if not moco or p.endswith("encoder_q.")), key=prefixes.count, default=""
    )
    own, dropped = {}, []
    for key, value in state.items():
        name = key.removeprefix(prefix)
        training = key.removeprefix("module.").startswith(("encoder_k.", "queue"))
        if moco and (training or name.startswith("fc.")):
            dropped.append(key)
        else:
            own[re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name)] = value
    kind = "MoCo" if moco else "Lightning" if lightning else _PLAIN
    return own, f"{kind}, names below {prefix!r}" if prefix else kind, tuple(dropped)


def _card_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_card(path: Path) -> dict[str, Any]:
    if not _card_of(path).exists():
        return {}
    try:
        card = json.loads(_card_of(path).read_text())
    except ValueError as error:
        raise InputError(f"{_card_of(path)}: not JSON ({error}); correct or remove it") from None
    return card if isinstance(card, dict) else {}
