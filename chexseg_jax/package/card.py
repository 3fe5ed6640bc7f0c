"""What travels with a packaged model: `model.json`, for programs, and `README.md`, for people."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chexseg_jax.data.provenance import UNKNOWN, Provenance
from chexseg_jax.errors import InputError, first_line
from chexseg_jax.saved_model import Restored

_PROGRAM = """\
Images are grey uint8 [B, {size}, {size}], each a radiograph on a black square; the program normalises them itself.
Probabilities are float32 {shape}, in the order of `tasks` in `model.json`.

```python
import json
from pathlib import Path

{imports}
from PIL import Image, ImageOps

folder = Path({folder})
card = json.loads((folder / "model.json").read_text())


def letterbox(path, size):
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode[0] in "IF":  # Pillow would cut off all above 255
        raise SystemExit(f"{{path}}: more than 8 bits; scale it to 8, 1st to 99th percentile")
    picture = picture.convert("L")
    rows, columns = (max(1, side * size // max(picture.size)) for side in (picture.height, picture.width))
    top, left = (size - rows) // 2, (size - columns) // 2
    square = np.zeros((size, size), np.uint8)
    picture = picture.resize((columns, rows), Image.Resampling.BILINEAR)
    square[top : top + rows, left : left + columns] = picture
    return square


images = np.stack([letterbox("radiograph.png", card["size"])])
{call}```

{needs}
"""
_MASKS = """\
masks = probabilities > np.array([card["thresholds"][task] for task in card["tasks"]])
"""
#: imports, call and needs of `_PROGRAM`.
_PROGRAMS = {
    "stablehlo": {
        "imports": "import jax\nimport jax.export\nimport numpy as np",
        "call": """\
predict = jax.jit(jax.export.deserialize((folder / "model.stablehlo").read_bytes()).call)
probabilities = np.asarray(predict(images))
""",
        "needs": "`pip install jax flatbuffers pillow`. It runs on a CPU or an NVIDIA GPU, without this package.",
    },
    "onnx": {
        "imports": "import numpy as np\nimport onnxruntime",
        "call": """\
session = onnxruntime.InferenceSession(folder / "model.onnx")
(probabilities,) = session.run(["probabilities"], {"images": images})
""",
        "needs": "`pip install onnxruntime pillow`. It runs without this package, JAX or PyTorch.",
    },
}
_HUB = """\
```python
from chexseg_jax.package.hub import HubModel

model = HubModel.from_pretrained({folder}).restored  # a folder, or USER/NAME on the Hub
probabilities = model.predict(images)  # grey uint8 radiographs of any size
```

It needs CheXseg-JAX with its extra `hub`: `pip install '.[hub]'` in a checkout. Without the Hub's client,
`chexseg_jax.restore(FOLDER)` opens a copy of the files.
"""


def card_of(model: Restored) -> dict[str, Any]:
    """The content of `model.json`, but for the checksums of the Orbax files."""
    return model.config.to_dict() | {
        "tasks": list(model.tasks),
        "normalisation": model.normalisation._asdict(),
        "thresholds": dict(model.thresholds),
        "taxonomy": model.taxonomy.to_dict(),
        "provenance": model.provenance.to_dict(),
    }


def usage(card: Mapping[str, Any], to: str, folder: str) -> str:
    """How to use the package, as Markdown with a Python program that runs as it is.

    Args:
      card: see `card_of`.
      to: "stablehlo", "onnx" or "hub".
      folder: of the package, as the program names it.
    """
    folder = json.dumps(folder, ensure_ascii=False)  # quoted as in Python
    segments = bool(card["thresholds"])
    size, outputs = card["size"], card["num_classes"]
    shape = f"[B, {size}, {size}, {outputs}]" if segments else f"[B, {outputs}]"
    if to == "hub":
        return _HUB.format(folder=folder)
    texts = dict(_PROGRAMS[to])
    texts["call"] += _MASKS * segments
    return _PROGRAM.format(size=size, shape=shape, folder=folder, **texts)


def readme(card: Mapping[str, Any], scores: Mapping[str, Any], to: str, folder: str) -> str:
    """A model card: what the model is, the data that it has seen, its scores, and how to use it.

    Args:
      card: see `card_of`.
      scores: a run's `scores.json`; {} if there is none.
      to, folder: see `usage`.
    """
    origin = Provenance.of_card(card)
    data = scores.get("data", origin.data) if origin == UNKNOWN else origin.data
    kind = "segmentation" if card["thresholds"] else "classifier"
    lines = [f"# A chest X-ray {kind}: {card['name']}", ""]
    if "phantom" in data.lower():
        lines += [
            "> **Trained on a phantom: synthetic images, not patients.** Its masks of real radiographs mean nothing.",
            "",
        ]
    lines += [
        "For research only. Not a medical device; not validated for any clinical use.",
        "",
        f"- Training data: {data}",
        *[f"- Views: {origin.views}"] * bool(origin.views),
        *[f"- Uncertain labels: {origin.uncertainty}"] * bool(origin.uncertainty),
        f"- Licence: {origin.licence or 'not stated; ask whoever trained the weights'}",
        *(
            f"- {name}: {'absent' if value is None else f'{value:.3f}'}"
            for name, value in origin.scores.items()
        ),
        f"- Images: {card['size']} x {card['size']} pixels, grey",
        "",
        *_table(card, scores.get("pooled", {})),
        "",
        "## Use",
        "",
        usage(card, to, folder),
    ]
    return "\n".join(lines)


def hub_header(card: Mapping[str, Any]) -> str:
    """The Hub's metadata, which begin a repository's README."""
    task = "image-segmentation" if card["thresholds"] else "image-classification"
    licence = Provenance.of_card(card).licence or "unknown"
    tags = ["chest-x-ray", "jax", "flax", "model_hub_mixin"]
    values = {
        "library_name": "chexseg-jax",
        # The Hub knows licences by short names; others go below `license_name`.
        **({"license": licence} if licence == "unknown" or " " not in licence else {"license": "other"}),
        **({"license_name": licence} if " " in licence else {}),
        "pipeline_tag": task,
        "tags": tags,
    }
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()) + "---\n\n"


def read_scores(directory: Path) -> dict[str, Any]:
    """The `scores.json` of a run's folder; {} for another folder.

    Raises:
      InputError: if it is damaged.
    """
    path = directory / "scores.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path}: truncated or corrupt ({first_line(error)}); copy it again") from None


def _table(card: Mapping[str, Any], scores: Mapping[str, float | None]) -> list[str]:
    names = [
        "output",
        *(["threshold"] if card["thresholds"] else []),
        *(["test IoU, pooled"] if scores else []),
    ]
    rows = [names, ["---"] * len(names)]
    for task in card["tasks"]:
        row = [task]
        if card["thresholds"]:
            row.append(f"{card['thresholds'][task]:g}")
        if scores:
            value = scores.get(task)
            row.append("absent" if value is None else f"{value:.3f}")
        rows.append(row)
    return [f"| {' | '.join(row)} |" for row in rows]
