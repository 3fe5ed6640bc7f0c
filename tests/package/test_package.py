"""`chexseg package`: the StableHLO program in a process without this package, the card, the Hub's folder."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export
from PIL import ExifTags, Image, ImageOps
from tiny import he_weights

import chexseg_jax
from chexseg_jax import models
from chexseg_jax.data.images import fit_image, read_grey
from chexseg_jax.errors import InputError
from chexseg_jax.models.cpu import override
from chexseg_jax.models.normalisation import IMAGENET
from chexseg_jax.package.__main__ import main
from chexseg_jax.package.card import card_of, hub_header, readme, usage
from chexseg_jax.saved_model import save_model

PAGE = (Path(__file__).parents[2] / "docs" / "shipping.md").read_text()
RUN = "work/runs/RUN"
#: Runs before a README's program: neither this package nor the library of its networks can be imported.
BLOCK = "import sys\nsys.modules |= {'chexseg_jax': None, 'flax': None}\n"


def python_of(text):
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def shipped(tiny_segmentation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stablehlo") / "shipped"
    main([str(tiny_segmentation), str(folder), "--to", "stablehlo"])
    return folder


def test_damaged_scores_are_named_and_nothing_is_written(place):
    Path(RUN, "scores.json").write_text('{"data": ')
    with pytest.raises(InputError, match=r"scores\.json: truncated or corrupt"):
        main([RUN, "out", "--to", "stablehlo"])
    assert not Path("out").exists()


def test_a_process_without_this_package_has_equal_masks(shipped, place):
    model = chexseg_jax.restore(RUN)
    probabilities = model.predict([read_grey("radiograph.png")])
    # Amid the probabilities, where no rounding of another machine tips a pixel over.
    ordered = np.sort(probabilities.reshape(-1, 2), axis=0)[400:624]
    gaps = np.diff(ordered, axis=0)
    limits = ordered[gaps.argmax(0), [0, 1]] + gaps.max(0) / 2
    shutil.copytree(shipped, "shipped")
    card = json.loads(Path("shipped/model.json").read_text())
    card["thresholds"] = dict(zip(model.tasks, limits.tolist(), strict=True))
    Path("shipped/model.json").write_text(json.dumps(card))
    after = "np.save('masks.npy', masks)\nthree = predict(np.repeat(images, 3, 0))\n"
    after += "assert three.shape == (3, 32, 32, 2) and np.abs(three - probabilities).max() < 1e-6\n"
    program = BLOCK + python_of(Path("shipped/README.md").read_text()) + after
    subprocess.run([sys.executable, "-c", program], check=True)
    masks = probabilities > limits
    assert 0.3 < masks.mean() < 0.7
    np.testing.assert_array_equal(np.load("masks.npy"), masks)


@pytest.mark.parametrize("to", ["stablehlo", "onnx", "hub"])
def test_a_folder_of_any_name_is_quoted_as_python_does(to):
    card = {"size": 32, "num_classes": 1, "thresholds": {"A": 0.5}}
    assert repr('5" \\ü') in ast.unparse(ast.parse(python_of(usage(card, to, '5" \\ü'))))


@pytest.mark.parametrize("to", ["stablehlo", "onnx"])
def test_the_programs_read_a_radiograph_as_this_package_does(to, place):
    """An EXIF orientation is followed; a deep image, which Pillow would read as white, is refused."""
    text = python_of(usage(card_of(chexseg_jax.restore(RUN)), to, "shipped"))
    defined = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(text[text.index("def letterbox") : text.index("images = ")], defined)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.open("radiograph.png").save("turned.png", exif=turned)
    Image.fromarray(np.full((9, 9), 700, np.uint16)).save("deep.png")
    for file in ("radiograph.png", "turned.png"):
        np.testing.assert_array_equal(defined["letterbox"](file, 32), fit_image(read_grey(file), 32))
    with pytest.raises(SystemExit, match=r"deep\.png: more than 8 bits; scale it to 8"):
        defined["letterbox"]("deep.png", 32)


def test_each_platform_has_its_own_lowerings(shipped, tiny_segmentation):
    """A CPU runs a depthwise convolution as shifted products; a GPU gets the convolution, from a CPU's export too."""
    exported = export.deserialize(bytearray((shipped / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda")
    assert "feature_group_count = 256" in exported.mlir_module()
    model = chexseg_jax.restore(tiny_segmentation)
    images = np.zeros((1, 32, 32, 3), np.float32)
    for on_cpu in (True, False):
        with override(on_cpu):
            program = str(jax.make_jaxpr(model.module.apply)(model.variables, images))
        assert ("feature_group_count=256" in program) == (not on_cpu)


def test_the_card_travels_whole(shipped, tiny_segmentation):
    card = json.loads((tiny_segmentation / "model/model.json").read_text())
    del card["checksums"]
    assert json.loads((shipped / "model.json").read_text()) == card
    text = (shipped / "README.md").read_text()
    assert "Trained on a phantom: synthetic images, not patients." in text
    lines = (
        *("- Licence: CC-BY-4.0", "- Views: frontal"),
        *("| Nodule | 0.5 | 0.250 |", "| Fracture | 0.45 | absent |"),
    )
    assert not [line for line in lines if line not in text]


def test_a_card_of_earlier_versions(tiny_segmentation):
    card = card_of(chexseg_jax.restore(tiny_segmentation))
    del card["provenance"]
    text = readme(card, {}, "hub", "USER/NAME")
    assert "- Training data: unknown data\n" in text
    assert "- Licence: not stated; ask whoever trained the weights" in text
    assert "phantom" not in text
    assert 'license: "unknown"' in hub_header(card)


def test_the_page_shows_the_programs_of_the_readmes(tiny_segmentation):
    card = card_of(chexseg_jax.restore(tiny_segmentation))
    for to in ("stablehlo", "onnx", "hub"):
        assert f"```python\n{python_of(usage(card, to, 'shipped'))}```" in PAGE


def test_a_hub_repository_comes_back_from_its_folder(place):
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    from huggingface_hub import ModelCard

    from chexseg_jax.package.hub import HubModel

    main([RUN, "repository", "--to", "hub"])
    assert {path.name for path in Path("repository").iterdir()} == {
        *("README.md", "config.json", "model.json", "variables")
    }
    card = ModelCard.load("repository/README.md")
    assert (card.data.pipeline_tag, card.data.library_name) == ("image-segmentation", "chexseg-jax")
    assert "Trained on a phantom" in card.text
    ours = chexseg_jax.restore(RUN)
    for theirs in (HubModel.from_pretrained("repository").restored, chexseg_jax.restore("repository")):
        assert jax.tree.all(jax.tree.map(np.array_equal, theirs.variables, ours.variables))
        assert theirs.thresholds == ours.thresholds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([RUN, "work", "--to", "stablehlo"], "work: already exists"),
        ([RUN, "new", "--to", "onnx", "--push", "a/b"], "--push a/b: only --to hub is uploaded"),
        (["work", "new", "--to", "stablehlo"], "work holds no model"),
        ([RUN, "new", "--to", "tflite"], "invalid choice"),
        ([RUN, "radiograph.png/new", "--to", "stablehlo"], "radiograph.png/new: cannot be written"),
    ],
)
def test_errors_name_the_fix_and_leave_nothing(arguments, message, place):
    with pytest.raises(InputError, match=message):
        main(arguments)
    assert {path.name for path in place.iterdir()} == {"work", "radiograph.png"}


@pytest.mark.parametrize(
    ("to", "library"), [("stablehlo", "flatbuffers"), ("onnx", "onnxscript"), ("hub", "huggingface_hub")]
)
def test_a_missing_extra_is_named(to, library, place, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("chexseg_jax.package.hub")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"--to {to} needs {library}; pip install 'chexseg-jax\[{to}\]'"):
        main([RUN, "new", "--to", to])
    assert not Path("new").exists()


def test_a_network_without_outputs_is_no_program(place):
    module = models.create("tiny", num_classes=0)
    Path("encoder").mkdir()
    save_model(
        Path("encoder"),
        he_weights(module),
        name="tiny",
        num_classes=0,
        options={},
        size=32,
        tasks=(),
        normalisation=IMAGENET,
    )
    with pytest.raises(InputError, match="without outputs predicts nothing; only --to hub takes it"):
        main(["encoder", "new", "--to", "stablehlo"])
