"""Damage valid inputs at random: each must be read, or refused by one `InputError` of one line.

    python tests/faults/fuzz.py > benchmarks/results/fuzz.md    # ten minutes; --inputs, --reader and --seed change it

Prints a table of counts by reader, names the first crashes, and exits with 1 if there are any. Another reader is
another entry of `READERS`. Checkpoints of torch are damaged only where torch is installed.
"""

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags
from PIL import Image
from safetensors.numpy import save_file

sys.path += [str(Path(__file__).parents[i]) for i in (1, 2)]

from faults.damage import damage, damage_bytes, damage_dicom
from tiny import Tiny

from chexseg_jax import models, progress, settings
from chexseg_jax.config_args import parse_flags
from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import encode, read_annotations, read_segmentations
from chexseg_jax.data.images import read_radiograph
from chexseg_jax.data.taxonomy import CHEXPERT, read_taxonomy
from chexseg_jax.errors import InputError, tell
from chexseg_jax.models.normalisation import CHEXPERT as CHEST
from chexseg_jax.models.torch_weights import files
from chexseg_jax.models.zoo import ENCODERS
from chexseg_jax.predict.dicom_seg import write_dicom_seg
from chexseg_jax.saved_model import restore, save_model
from configs import semi

ENCODERS["tiny"] = Tiny
CONFIGS = Path(__file__).parents[2] / "configs"
#: Larger masks are read, but not decoded: ten of 2^28 pixels do not fit in memory.
_DECODED = 10**6
#: A longer message is no line that anyone reads.
_LONGEST = 1300
#: Between the card and the weights of a model.
_CUT = b"\n---- weights ----\n"


class Reader(NamedTuple):
    """Valid inputs, how to damage one, how to read one into a folder of its own, and whether that takes long."""

    seeds: Sequence[bytes]
    read: Callable[[Path, bytes], Any]
    mutate: Callable[[np.random.Generator, bytes], bytes]
    slow: bool = False


def run(name: str, inputs: int, *, seed: int = 0) -> tuple[dict[str, int], list[str]]:
    """Counts of values, refusals and crashes, and a line for each kind of crash."""
    reader, counts, crashes = READERS[name], {"values": 0, "refusals": 0, "crashes": 0}, {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(inputs):
            rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
            content = reader.mutate(rng, reader.seeds[number % len(reader.seeds)])
            wrong = ""
            try:
                reader.read(Path(folder), content)
                counts["values"] += 1
                continue
            except InputError as error:
                with contextlib.redirect_stderr(io.StringIO()) as told:
                    tell(error)
                line = told.getvalue()
                if len(line.splitlines()) != 1 or len(line) > _LONGEST:
                    wrong = f"a refusal of more than a line, or of {_LONGEST} characters: {line[:200]!r}"
            except (Exception, RecursionError) as error:
                place = error.__traceback__
                while place.tb_next:
                    place = place.tb_next
                where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
                wrong = f"{type(error).__name__} at {where}: {str(error)[:200]!r}"
            counts["crashes" if wrong else "refusals"] += 1
            if wrong:
                crashes.setdefault(
                    wrong.partition(": ")[0], f"{name}, input {number}: {wrong}; {content[:200]!r}"
                )
    return counts, [*crashes.values()]


def _file(name: str, read: Callable[[Path], Any]) -> Callable[[Path, bytes], Any]:
    def read_content(folder: Path, content: bytes) -> Any:
        (folder / name).write_bytes(content)
        return read(folder / name)

    return read_content


def _read_masks(path: Path) -> None:
    found = read_segmentations(path)
    for image_id in found.ids:
        height, width = found.size(image_id)
        if height * width <= _DECODED:
            found.masks(image_id)


def _read_polygons(path: Path) -> None:
    for annotation in read_annotations(path).values():
        height, width = annotation.size
        if height * width <= _DECODED:
            annotation.masks()


def _read_arguments(_: Path, content: bytes) -> None:
    settings.check(semi.get_config(content.decode(errors="replace")))


def _read_settings(_: Path, content: bytes) -> None:
    """The command line of a table, one flag a line."""
    text = content.decode(errors="replace").replace("\0", "")
    argv = ["launch.py", f"--config={CONFIGS / 'table1.py'}:smoke", *filter(None, text.split("\n"))]
    old, flags.FLAGS = flags.FLAGS, flags.FlagValues()
    try:
        holder = config_flags.DEFINE_config_file("config", flag_values=flags.FLAGS, sys_argv=argv)
        parse_flags(argv)
        settings.check(holder.value)
        settings.trials(holder.value)
    finally:
        flags.FLAGS = old


def _images(suffix: str) -> Reader:
    """Small radiographs of eight bits, of sixteen where the format has them, in colour, and turned."""
    grey = (np.add.outer(np.arange(24), np.arange(17)) * 5).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = [Image.fromarray(grey), Image.fromarray(grey).convert("RGB")]
    if suffix in ("png", "tif", "jp2", "pgm"):
        pictures.append(Image.fromarray(grey.astype(np.uint16) * 16))
    seeds = []
    for picture, more in [(p, m) for p in pictures for m in ({}, {"exif": exif})]:
        content = io.BytesIO()
        kind = Image.registered_extensions()[f".{suffix}"]
        if more and kind not in ("PNG", "JPEG", "TIFF", "WEBP"):
            continue
        picture.save(content, kind, **more)
        seeds.append(content.getvalue())
    return Reader(seeds, _file(f"image.{suffix}", read_radiograph), damage_bytes)


def _dicom(read: Callable[[Path], Any], *, slow: bool = False) -> Reader:
    """Small radiographs with a window, with lookup tables, and compressed in four ways."""
    from dicom_files import content, dataset, lookup_table
    from pydicom.data import get_testdata_file
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    grey = np.add.outer(np.arange(64), np.arange(70)).astype(np.uint16) * 30
    table = lookup_table(np.arange(40), 0, 8)
    seeds = [
        dataset(
            grey, bits=12, WindowCenter=[900, 5], WindowWidth=[800, 9], RescaleSlope=2, RescaleIntercept=-9
        ),
        dataset(grey, bits=12, ModalityLUTSequence=[table], VOILUTSequence=[table], PixelPaddingValue=0),
    ]
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        seeds.append(dataset(grey, bits=12, PhotometricInterpretation="MONOCHROME1"))
        seeds[-1].compress(syntax)
    with open(get_testdata_file("SC_rgb_jpeg_gdcm.dcm", download=False), "rb") as file:  # JPEG, lossless
        return Reader([*map(content, seeds), file.read()], _file("image.dcm", read), damage_dicom, slow)


def _refer(path: Path) -> None:
    """Write a segmentation that refers to a radiograph of the size of most of the inputs."""
    write_dicom_seg(path.with_name("seg.dcm"), path, np.zeros((64, 70, 10), bool), CHEXPERT, model="fuzz")


def _weights(suffix: str, save: Callable[..., None]) -> Reader:
    state = {"conv1.weight": np.ones((2, 3, 1, 1), np.float32), "bn1.running_var": np.ones(2, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"weights.{suffix}")
        save(state, file)
        return Reader([file.read_bytes()], _file(file.name, files.read), damage_bytes)


def _pickled() -> Reader:
    """A checkpoint of torch, as it and as Lightning write them."""
    import torch

    def save(state: dict[str, np.ndarray], file: Path) -> None:
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        torch.save({"state_dict": tensors, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, file)

    return _weights("pth", save)._replace(slow=True)


def _model() -> Reader:
    """A saved model, all files in one input: with checksums, and without, as earlier versions wrote it."""
    module = models.create("tiny", num_classes=14)
    zeros = np.zeros((1, 32, 32, 3), np.float32)
    variables = jax.tree.map(
        lambda x: np.ones(x.shape, x.dtype), jax.eval_shape(module.init, jax.random.key(0), zeros)
    )
    with tempfile.TemporaryDirectory() as folder:
        save_model(
            Path(folder),
            variables,
            name="tiny",
            num_classes=14,
            options={},
            size=32,
            tasks=CHEXPERT.labels,
            normalisation=CHEST,
        )
        card = Path(folder, "model.json")
        old = json.dumps(
            {key: value for key, value in json.loads(card.read_text()).items() if key != "checksums"}
        )
        others = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path != card]
        names = [path.relative_to(folder) for path in others]
        pieces = [path.read_bytes() for path in others]
        cards = [card.read_bytes(), old.encode()]

    def read_pieces(folder: Path, content: bytes) -> Any:
        card, _, rest = content.partition(_CUT)
        (folder / "model.json").write_bytes(card)
        for name, piece in zip(names, pieces, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(rest[: len(piece)])
            rest = rest[len(piece) :]
        return restore(folder)

    return Reader([card + _CUT + b"".join(pieces) for card in cards], read_pieces, damage_bytes, slow=True)


def _table(columns: Sequence[str], *rows: str) -> bytes:
    return "\n".join([",".join(columns), *rows, ""]).encode()


_MASK = encode(np.eye(6, 5, dtype=bool))
_ROWS = [
    f"CheXpert-v1.0-small/train/patient0000{n}/study1/view1_{view.lower()}.jpg,Male,60,{view},AP,1,,0.0,-1.0"
    + "," * 10
    for n, view in ((1, "Frontal"), (2, "Lateral"))
]
_TOML = """labels = ["Nodule", "Fracture", "No Finding"]
tasks = ["Nodule", "Rib Fracture"]
missing = "unknown"
common = ["Nodule"]
colours = ["#e6c229", "#4cc9f0"]
[label_of]
"Rib Fracture" = "Fracture"
[aliases]
"Lump" = "Nodule"
"""

READERS = {
    "csv": Reader(
        [
            _table(chexpert.COLUMNS, *_ROWS),
            _table(chexpert.TEST_COLUMNS, "test/patient1/study1/view1_frontal.jpg" + ",0" * 14),
        ],
        _file("train.csv", lambda path: chexpert.read_labels(path, root=path.parent)),
        damage,
    ),
    "segmentations": Reader(
        [
            json.dumps({"p_s_v": {"Edema": _MASK, "Lung Opacity": _MASK}, "q_s_v": {}}).encode(),
            json.dumps(
                {"a": {"Edema": {"size": [4, 3], "counts": [3, 4, 5]}, "Cardiomegaly": _MASK}}
            ).encode(),
            json.dumps({"a": {task: _MASK for task in CHEXPERT.tasks}}).encode(),
        ],
        _file("gt_segmentations.json", _read_masks),
        damage,
    ),
    "annotations": Reader(
        [
            json.dumps(
                {"a": {"img_size": [9, 8], "Edema": [[[1, 2], [3.5, 4], [5, 0.25]]], "Cardiomegaly": []}}
            ).encode()
        ],
        _file("gt_annotations.json", _read_polygons),
        damage,
    ),
    "toml": Reader([_TOML.encode()], _file("tasks.toml", lambda path: read_taxonomy(path.parent)), damage),
    "arguments": Reader(
        [
            b"p=0.9,pseudo=irnet,count=100,seed=3",
            b"init=moco,experts=12,trial=1,smoke",
            b"root=/a,b/c,scale=laptop",
        ],
        _read_arguments,
        damage,
    ),
    **{suffix: _images(suffix) for suffix in ("png", "jpg", "tif", "bmp", "gif", "webp", "jp2", "pgm")},
    "dicom": _dicom(read_radiograph),
    "dicom, as the source of a segmentation": _dicom(_refer, slow=True),
    "npz": _weights("npz", lambda state, file: np.savez(file, **state)),
    "npz, compressed": _weights("npz", lambda state, file: np.savez_compressed(file, **state)),
    "safetensors": _weights("safetensors", save_file),
    "saved model": _model(),
    **({"pth": _pickled()} if find_spec("torch") else {}),
    "settings": Reader(
        [
            b"--config.segmentation.steps=3\n--config.segmentation.learning_rate=0.1\n--config.grid.p=(0, 0.5, 1)",
            b"--config.grid.init=('random', 'moco')\n--config.data.uncertainty=zeros;Edema=ones;blank=ignore",
            b"--noconfig.segmentation.augment\n--config.trials=2\n--config.data.validation=0.25\n--config.data.size=64",
            b"--config.classifier.epochs=0.5\n--config.grid.count=(10,)\n--config.shard=1/2",
        ],
        _read_settings,
        damage,
    ),
}


def main() -> None:
    """Parse the command line, run, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="for each reader; a tenth for slow ones")
    parser.add_argument("--reader", choices=READERS, help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    progress.mute()
    crashes = []
    warnings.simplefilter("ignore")
    logging.disable()
    print(f"# Damaged inputs\n\n{date.today()}, seed {chosen.seed}\n")
    print("| reader | inputs | values | refusals | crashes |\n| --- | ---: | ---: | ---: | ---: |")
    for name in [chosen.reader] if chosen.reader else READERS:
        inputs = chosen.inputs // (10 if READERS[name].slow else 1)
        counts, found = run(name, inputs, seed=chosen.seed)
        print(
            f"| {name} | {inputs:,} | " + " | ".join(f"{n:,}" for n in counts.values()) + " |",
            flush=True,
        )
        crashes += found
    print("".join(f"- {crash}\n" for crash in crashes), end="")
    sys.exit(bool(crashes))


if __name__ == "__main__":
    main()
