"""The files that PyTorch's users keep: read into a state dict that `from_torch` takes, and written back.

Which names a file uses is found out from the names:

| source                                         | names                                              |
|------------------------------------------------|----------------------------------------------------|
| torchvision, segmentation-models-pytorch       | as they are (its 0.1.x names are those of 0.6)     |
| torchvision's oldest DenseNet files            | `denselayer1.norm.1` for `denselayer1.norm1`       |
| DataParallel, Lightning (`state_dict`)         | below `module.`, `model.`, `model.model.`...       |
| MoCo (`state_dict`), MoCo-CXR                  | below `module.encoder_q.`; `fc` is its projection  |
| the published IRNet                            | trunk and branches a second time, in module lists  |
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

#: Endings of a pickled file, which torch reads and writes.
PICKLED = (".pth", ".pt", ".ckpt", ".tar", ".bin")
ENDINGS = (".safetensors", ".npz", *PICKLED)
#: Wrappers that training code puts around a network, from the outside in.
_WRAPPERS = re.compile(r"((?:module|model|net|network|encoder_q)\.)*")
#: Modules that the published IRNet registers a second time.
_ALIASES = re.compile(r"(stage[1-5]|backbone|edge_layers|dp_layers)\.")


@dataclass(frozen=True)
class TorchFile:
    """What a file holds.

    Attributes:
      state: tensors under the network's own names.
      source: "torchvision or segmentation-models-pytorch", "Lightning" or "MoCo", with the prefix that was taken off.
      dropped: names that belong to the training or to a projection head, not to the network.
      card: the JSON beside the file (its `normalisation`...), {} where there is none.
    """

    state: dict[str, np.ndarray]
    source: str
    dropped: tuple[str, ...]
    card: dict[str, Any]


def read(path: str | Path) -> TorchFile:
    """Reads weights of any of the sources above; `.safetensors` and `.npz` need no torch.

    A pickled file is read with `weights_only=True`: what would run code is refused, not run.

    Raises:
      InputError: for a file that is missing, truncated, of another kind, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, KeyError, TypeError, OSError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({first_line(error)})") from None
    elif path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content = dict(arrays)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise InputError(f"{path}: not a whole npz file of plain arrays ({first_line(error)})") from None
    elif path.suffix in PICKLED:
        content = _unpickle(path)
    else:
        raise InputError(f"{path}: weights end in {', '.join(ENDINGS)}")
    trained = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
    tensors = content["state_dict"] if trained else content
    state = (
        {str(key): _array(value) for key, value in tensors.items() if hasattr(value, "shape")}
        if isinstance(tensors, Mapping)
        else {}
    )
    if not state:
        raise InputError(f"{path}: holds no tensors by name; save the model's state_dict()")
    state, source, dropped = _own_names(state, lightning=trained and "pytorch-lightning_version" in content)
    return TorchFile(state, source, dropped, _read_card(path))


def write(path: str | Path, state: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Writes a state dict by the file's ending, and `card` as JSON beside it (`weights.pth.json`).

    Raises:
      InputError: for an ending that is not known, and for a pickled one without torch.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: weights end in {', '.join(ENDINGS)}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written (no folder {path.parent})")
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
        # The card first: alone it does no harm, while weights without it would be taken for others.
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
        # Lightning's hyperparameters: a plain holder of values, and the paths among them.
        with torch.serialization.safe_globals([Namespace, PosixPath]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|function) `?([\w.]+)", str(error))
        if found:
            raise InputError(
                f"{path}: its pickle calls {found[1]}, which was not run; save the state_dict() alone"
            ) from None
        raise InputError(f"{path}: not a whole PyTorch file ({first_line(error)})") from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise InputError(f"{path}: not a whole PyTorch file ({first_line(error)})") from None


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
    """The network's own names, what the file is, and what was dropped."""
    # The outermost wrapper is that of most names: a loss or a metric beside the network has none of its own.
    prefixes = [_WRAPPERS.match(key)[0] for key in state]
    moco = any(prefix.endswith("encoder_q.") for prefix in prefixes)
    prefix = max(
        (p for p in set(prefixes) if not moco or p.endswith("encoder_q.")), key=prefixes.count, default=""
    )
    irnet = any(key.removeprefix(prefix).startswith("resnet50.") for key in state)
    own, dropped = {}, []
    for key, value in state.items():
        name = key.removeprefix(prefix)
        training = key.removeprefix("module.").startswith(("encoder_k.", "queue"))
        if (moco and (training or name.startswith("fc."))) or (irnet and _ALIASES.match(name)):
            dropped.append(key)
        else:
            own[re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name)] = value
    kind = "MoCo" if moco else "Lightning" if lightning else "torchvision or segmentation-models-pytorch"
    return own, f"{kind}, names below {prefix!r}" if prefix else kind, tuple(dropped)


def _card_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_card(path: Path) -> dict[str, Any]:
    if not _card_of(path).exists():
        return {}
    try:
        card = json.loads(_card_of(path).read_text())
    except ValueError as error:
        raise InputError(f"{_card_of(path)}: not JSON ({error}); mend or remove it") from None
    return card if isinstance(card, dict) else {}
