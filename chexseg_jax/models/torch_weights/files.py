"""Weight files of PyTorch: read into a state dict for `from_torch`, and written.

The reader recognises these sources by their tensors' names:

===============================================  ====================================================
source                                           names
===============================================  ====================================================
torchvision, segmentation-models-pytorch         unchanged (0.1.x has the names of 0.6)
torchvision's oldest DenseNet files              `denselayer1.norm.1` for `denselayer1.norm1`
DataParallel, torch.compile, Lightning           below `module.`, `_orig_mod.`, `model.backbone.`...
CheXNet                                          below `module.densenet121.`, head `classifier.0`
MoCo v1 and v2, MoCo-CXR, also within Lightning  below `encoder_q.`; `fc`, `classifier`: projection
MoCo v3                                          below `module.base_encoder.`; `fc`: projection
a teacher and its student                        below `teacher.`, or in the file's `teacher`
torchxrayvision                                  beside `op_threshs`, which is dropped
the published IRNet                              several for a tensor; see `published_irnet`
===============================================  ====================================================

The tensors are the file's content or in its `teacher`, `state_dict`, `model_state_dict`, `model` or `net`, the first of
them that it has. Losses, metrics and queues beside a network are dropped by their names (`_TRAINING`).
"""

import json
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from chexseg_jax.errors import InputError, first_line, naming
from chexseg_jax.files import written_aside
from chexseg_jax.models.normalisation import CHEXPERT, IMAGENET, XRV, Normalisation, normalisation_of
from chexseg_jax.models.torch_weights.published_irnet import is_published_irnet, own_tensors

#: Endings of pickled files, which only torch reads and writes.
PICKLED = (".pth", ".pt", ".ckpt", ".tar", ".bin")
ENDINGS = (".safetensors", ".npz", *PICKLED)
#: Source of a file whose tensors have their own names.
_PLAIN = "torchvision or segmentation-models-pytorch"
#: Entries of a training's checkpoint that hold a network, the first one first.
_NESTED = ("teacher", "state_dict", "model_state_dict", "model", "net")
#: Networks that a training has twice: the copy to import, and its twin.
_TWINS = {"encoder_q": "encoder_k", "base_encoder": "momentum_encoder", "teacher": "student"}
#: Wrappers that training code puts around a network.
_WRAPPERS = re.compile(
    rf"((?:module|_orig_mod|model|net|network|backbone|densenet121|{'|'.join(_TWINS)})\.)*"
)
#: Names of what a training keeps beside its network: losses, metrics, queues, a count of averaged updates.
_TRAINING = re.compile(
    r"(?:.*\.)?(?:"
    r"(?:\w+_)?(?:loss|losses|criterion|metrics?|auroc|auc|accuracy|acc|f1|precision|recall)(?:_\w+)?\..*"
    r"|(?:\w+_)?(?:pos_weight|class_weights?|queue|queue_ptr)|n_averaged|op_threshs)",
    re.IGNORECASE,
)
#: What MoCo has instead of a classifier's head, and above it.
_PROJECTION = ("fc.", "classifier.", "predictor.")
#: A head with its linear layer in an `nn.Sequential`.
_HEAD = re.compile(r"(classifier|fc)\.\d+\.")
#: torchxrayvision's outputs, in order. Its weights for fewer have no operating point for the others.
XRV_OUTPUTS = (
    *("Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema"),
    *("Fibrosis", "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule"),
    *("Mass", "Hernia", "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum"),
)
#: Attributes of torch's tensors without plain values.
_UNUSABLE = {
    "is_quantized": "quantised",
    "is_sparse": "sparse",
    "is_meta": "on the meta device, without values",
}
#: Types of a card's entries.
_ENTRIES: dict[str, type] = {
    **dict.fromkeys(("num_classes", "size"), int),
    **dict.fromkeys(("options", "normalisation", "taxonomy", "thresholds", "provenance"), dict),
    **{"name": str, "tasks": list},
}


@dataclass(frozen=True)
class TorchFile:
    """The content of a weight file.

    Attributes:
      state: tensors under the network's own names.
      source: "torchvision or segmentation-models-pytorch", "Lightning", "MoCo", "torchxrayvision" or "the published
        IRNet", with the entry that held the tensors and the prefix that was removed.
      dropped: names that belong to the training or to a projection head, not to the network.
      repeated: further names of tensors in `state`.
      card: the JSON beside the file (its `normalisation`...), {} if there is none.
      normalisation: of the inputs: CheXseg's program records it in a classifier's checkpoint, IRNet has ImageNet's, and
        torchxrayvision its own.
      outputs: names of the outputs, if the source fixes them, with "" for one that was not trained.
      size: side of the network's images, in pixels, if the source fixes it.
    """

    state: dict[str, np.ndarray]
    source: str
    dropped: tuple[str, ...]
    repeated: tuple[str, ...]
    card: dict[str, Any]
    normalisation: Normalisation | None
    outputs: tuple[str, ...] = ()
    size: int | None = None


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
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: must end in {', '.join(ENDINGS)}")
    content = _load(path)
    tensors, entry = _network_in(content)
    everything, others = _arrays(path, tensors)
    if not everything:
        raise InputError(f"{path}: holds no named tensors; save the model's state_dict()")
    state, source, dropped = _own_names(everything, lightning="pytorch-lightning_version" in content)
    repeated: tuple[str, ...] = ()
    normalisation, outputs, size = _recorded(content) if entry else None, (), None
    if is_published_irnet(state):
        with naming(path):
            state, repeated, no_weights = own_tensors(state)
        source, dropped = source.replace(_PLAIN, "the published IRNet"), (*dropped, *no_weights)
        normalisation = IMAGENET
    points = everything.get("op_threshs")
    if np.shape(points) == (len(XRV_OUTPUTS),):
        source, normalisation = source.replace(_PLAIN, "torchxrayvision"), XRV
        trained = points == points  # not NaN
        outputs = tuple(np.where(trained, XRV_OUTPUTS, "").tolist())
        size = 224 if "features.conv0.weight" in state else 512
    source = f"{source}{entry}"
    card = read_card(_card_of(path))
    return TorchFile(state, source, (*dropped, *others), repeated, card, normalisation, outputs, size)


def stand_in(path: Path) -> str:
    """Describe a web page or a Git LFS pointer saved in place of a download, with the fix; "" for another file."""
    try:
        with path.open("rb") as file:
            head = file.read(200).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the weights; run git lfs pull"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not the weights; download the file itself"
    return ""


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


def _load(path: Path) -> Any:
    if reason := stand_in(path):
        raise InputError(f"{path}: {reason}")
    if path.suffix in PICKLED:
        return _unpickle(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # a damaged file may raise anything
        kind = path.suffix.removeprefix(".")
        raise InputError(
            f"{path}: not a file of {kind} tensors, or a truncated one ({first_line(error)})"
        ) from None


def _unpickle(path: Path) -> Any:
    torch = _torch(path)
    from pathlib import PosixPath
    from pickle import UnpicklingError

    try:
        # Lightning keeps its hyperparameters in a Namespace, paths among them.
        with torch.serialization.safe_globals([Namespace, PosixPath]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        function = re.search(r"(?:GLOBAL|global|function) `?([\w.]+)", str(error))
        if function and isinstance(error, UnpicklingError):
            raise InputError(
                f"{path}: its pickle calls {function[1]}, which was not run; save the state_dict() alone"
            ) from None
        if "TorchScript" in str(error):
            raise InputError(f"{path}: a TorchScript program; save the model's state_dict()") from None
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


def _arrays(path: Path, tensors: Mapping[Any, Any]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors as numpy arrays, and the names of other values."""
    state, others = {}, []
    for name, value in tensors.items():
        try:
            if "_packed_params" in str(name):
                raise TypeError("quantised")
            if isinstance(value, np.ndarray):
                state[str(name)] = value
            elif hasattr(value, "detach"):
                value = value.detach().cpu()
                state[str(name)] = (value.float() if value.is_floating_point() else value).numpy()
            else:
                others.append(str(name))
        except Exception as error:  # torch's classes, some of which raise as soon as one looks at them
            kinds = (words for sign, words in _UNUSABLE.items() if getattr(value, sign, False))
            kind = next(kinds, first_line(error))
            raise InputError(
                f"{path}: {name} is no plain tensor ({kind}); save weights of dense floats"
            ) from None
    return state, others


def _network_in(content: Any) -> tuple[Mapping[Any, Any], str]:
    """The tensors of a file, and the words for the entry that holds them, with the other networks of the file."""
    if not isinstance(content, Mapping):
        return {}, ""
    networks = [
        key
        for key in (*_NESTED, *_TWINS.values())
        if isinstance(content.get(key), Mapping) and any(hasattr(x, "shape") for x in content[key].values())
    ]
    if not networks:
        return content, ""
    unread = f" (not read: {', '.join(networks[1:])})" if networks[1:] else ""
    return content[networks[0]], f", in its entry {networks[0]!r}{unread}"


def _recorded(checkpoint: Mapping[str, Any]) -> Normalisation | None:
    """The normalisation among the hyperparameters of CheXseg's program, `--normalization`."""
    values: Any = checkpoint.get("hyper_parameters", checkpoint.get("hparams"))
    for key in ("transform_args", "normalization"):
        values = vars(values) if isinstance(values, Namespace) else values
        values = values.get(key) if isinstance(values, Mapping) else None
    return {"imagenet": IMAGENET, "chexpert_norm": CHEXPERT}.get(str(values))


def _own_names(
    state: dict[str, np.ndarray], *, lightning: bool
) -> tuple[dict[str, np.ndarray], str, tuple[str, ...]]:
    """The state under the network's own names, the source, and the dropped names."""
    # The network's wrapper is the most common one: what a training has beside the network has another, or none.
    prefixes = [key[: match.end()] for key in state if (match := _WRAPPERS.match(key))]
    copies = [prefix for prefix in prefixes if set(prefix.split(".")) & _TWINS.keys()]
    prefix = max(set(copies or prefixes), key=prefixes.count, default="")
    twins = {_TWINS[part] for part in prefix.split(".") if part in _TWINS}
    moco = bool(twins - {"student"})
    own, dropped = {}, []
    for key, value in state.items():
        name = key.removeprefix(prefix)
        unused = _TRAINING.fullmatch(name) or twins & set(key.split("."))
        if unused or (moco and _WRAPPERS.sub("", name, count=1).startswith(_PROJECTION)):
            dropped.append(key)
        else:
            own[re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", name)] = value
    linear = {_HEAD.sub(r"\1.", name): value for name, value in own.items()}
    if len(linear) == len(own):  # of several layers, none is the head
        own = linear
    kind = "MoCo" if moco else "Lightning" if lightning else _PLAIN
    return own, f"{kind}, names below {prefix!r}" if prefix else kind, tuple(dropped)


def _card_of(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read_card(path: Path) -> dict[str, Any]:
    """Read the JSON of a model's settings; {} if there is none.

    Raises:
      InputError: if it is damaged, or an entry has another type than `save_model` and `write` give it.
    """
    if not path.exists():
        return {}
    try:
        card = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        reason = stand_in(path) or f"truncated or corrupt ({first_line(error)}); copy it again"
        raise InputError(f"{path}: {reason}") from None
    if not isinstance(card, dict):
        raise InputError(f"{path}: must hold a JSON object")
    for name, kind in _ENTRIES.items():
        if not isinstance(card.get(name, kind()), kind):
            raise InputError(f"{path}: {name} must be of type {kind.__name__}, not {card[name]!r}")
    if not (1 <= card.get("size", 1) <= 65536 and 0 <= card.get("num_classes", 0) <= 65536):
        raise InputError(f"{path}: size or num_classes is out of range; correct it or copy the file again")
    with naming(path):
        normalisation_of(card.get("normalisation", IMAGENET._asdict()))
    card.get("options", {}).pop("cpu_kernels", None)  # of earlier versions, without influence on the model
    return card
