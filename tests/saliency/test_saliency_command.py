"""`chexseg saliency`, against Grad-CAM in closed form on a head of global pooling and one linear layer."""

import csv
import json
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import Tiny, he_weights

import chexseg_jax
from chexseg_jax import models
from chexseg_jax.data.chexlocalize import encode, read_segmentations, write_segmentations
from chexseg_jax.data.images import fit_image, read_grey, resize_map
from chexseg_jax.data.provenance import Provenance
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError, PartlyDoneError
from chexseg_jax.evaluation.__main__ import evaluate
from chexseg_jax.models.normalisation import IMAGENET, normalise
from chexseg_jax.saliency import __main__ as program
from chexseg_jax.saliency.__main__ import main
from chexseg_jax.saved_model import save_model

PAGE = (Path(__file__).parents[2] / "docs" / "saliency.md").read_text()
#: (height, width) of the images in the network's frame of 64 pixels.
CONTENT = {"wide": (32, 64), "tall": (64, 48)}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    models.ENCODERS["tiny"] = Tiny
    folder = tmp_path_factory.mktemp("classifier")
    module = models.create("tiny", num_classes=14)
    save_model(
        folder,
        he_weights(module, seed=3),
        name="tiny",
        num_classes=14,
        options={},
        size=64,
        tasks=CHEXPERT.labels,
        taxonomy=CHEXPERT,
        normalisation=IMAGENET,
        provenance=Provenance("phantom: synthetic images", synthetic=True),
    )
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, size in (("wide", (40, 80)), ("tall", (100, 75))):
        blocks = draw.integers(0, 256, (-(-size[0] // 10), -(-size[1] // 10)), dtype=np.uint8)
        pixels = blocks.repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def explained(classifier, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "explained"
    main(["-m", str(classifier), "-o", str(out), "--threshold", "0.5", "--overlays", "1", str(images)])
    return out


def test_the_maps_are_grad_cams_over_the_picture(explained, classifier, images):
    model = chexseg_jax.restore(classifier)
    weights = np.asarray(model.variables["params"]["fc"]["kernel"], np.float64)
    tasks = CHEXPERT.label_indices
    nonzero = 0
    with np.load(explained / "maps.npz") as archive:
        assert len(archive.files) == 2 * 2 * 10
        for name, content in CONTENT.items():
            grey = fit_image(read_grey(images / f"{name}.png"), 64)
            logits, out = model.module.apply(model.variables, normalise(jnp.asarray(grey[None]), IMAGENET))
            # Global pooling and a linear layer: dy_k/dA_c is W_ck / (h w) at every pixel.
            cams = np.maximum(np.asarray(out["features"][0], np.float64) @ weights / 16, 0)[..., tasks]
            square = resize_map(cams, (64, 64))
            top, left = ((64 - side) // 2 for side in content)
            for k, task in enumerate(CHEXPERT.tasks):
                inside = square[top : top + content[0], left : left + content[1], k]
                expected = (inside - inside.min()) / (np.ptp(inside) + 1e-7)
                np.testing.assert_allclose(archive[f"{name}_{task}|map"], expected, atol=2e-4)
                probability = 1 / (1 + np.exp(-float(logits[0, tasks[k]])))
                np.testing.assert_allclose(archive[f"{name}_{task}|prob"], probability, rtol=1e-5)
                nonzero += expected.max() > 0.5
    assert nonzero > 5


def test_masks_and_boxes_are_those_of_the_maps_at_full_size(explained):
    masks = read_segmentations(explained / "segmentations.json")
    rows = list(csv.DictReader((explained / "boxes.csv").open()))
    with np.load(explained / "maps.npz") as archive:
        for name, size in (("wide", (40, 80)), ("tall", (100, 75))):
            for task in CHEXPERT.tasks:
                expected = resize_map(archive[f"{name}_{task}|map"], size) > 0.5
                np.testing.assert_array_equal(masks.mask(name, task), expected)
                own = [row for row in rows if (row["image"], row["task"]) == (name, task)]
                assert sum(int(row["pixels"]) for row in own) == expected.sum()
                covered = np.zeros(size, bool)
                for row in own:
                    x0, y0, x1, y1 = (int(row[side]) for side in ("x0", "y0", "x1", "y1"))
                    covered[y0:y1, x0:x1] = True
                assert not (expected & ~covered).any()
    assert {path.name for path in explained.iterdir()} == {
        *("maps.npz", "segmentations.json", "boxes.csv", "tall.png")
    }


def test_a_phantoms_model_is_called_one(classifier, images, tmp_path, monkeypatch, capsys):
    titles = []
    monkeypatch.setattr(program, "draw_saliency", lambda *_, title, **__: titles.append(title))
    main(["-m", str(classifier), "-o", str(tmp_path / "out"), str(images / "tall.png")])
    assert "a model trained on phantom: synthetic images" in capsys.readouterr().err
    assert titles == ["tall: phantom-trained tiny"]


def test_chexlocalizes_hit_rate_reads_the_maps(explained, tmp_path):
    """Masks of the peaks alone are hit, masks of all but the peaks are missed."""
    with np.load(explained / "maps.npz") as archive:
        for peak, hit in ((True, "1"), (False, "0")):
            codes = {}
            for name, size in (("wide", (40, 80)), ("tall", (100, 75))):
                full = resize_map(archive[f"{name}_Edema|map"], size)
                mask = np.zeros(size, bool)
                mask[np.unravel_index(full.argmax(), size)] = True
                codes[name] = {"Edema": encode(mask if peak else ~mask)}
            write_segmentations(tmp_path / "truth.json", codes)
            truth = read_segmentations(tmp_path / "truth.json")
            evaluate(truth, truth, tmp_path / "scores", maps=explained / "maps.npz")
            rows = csv.DictReader((tmp_path / "scores/hitmiss_results_per_cxr.csv").open())
            assert [float(row["Edema"]) for row in rows] == [float(hit)] * 2


def test_the_page(classifier, images, tmp_path, monkeypatch):
    """Every command of docs/saliency.md, on its own names."""
    monkeypatch.chdir(tmp_path)
    Path("work/artifacts").mkdir(parents=True)
    Path("work/artifacts/CLASSIFIER").symlink_to(classifier)
    Path("radiographs").symlink_to(images)
    tuned = dict.fromkeys(CHEXPERT.tasks, 0.5) | {"Edema": 0.9}
    Path("work/artifacts/PSEUDO_MASKS").mkdir()
    Path("work/artifacts/PSEUDO_MASKS/thresholds.json").write_text(json.dumps(tuned))
    commands = [line.split()[2:] for line in PAGE.splitlines() if line.startswith("chexseg saliency ")]
    assert len(commands) == 3
    for command in commands:
        main([*command, "--overlays", "none"])
    otsu, plus_plus, gated = (
        read_segmentations(Path(command[command.index("-o") + 1], "segmentations.json"))
        for command in commands
    )
    with np.load("tuned/maps.npz") as archive:
        probable = {task: archive[f"tall_{task}|prob"] >= 0.5 for task in CHEXPERT.tasks}
        expected = resize_map(archive["tall_Edema|map"], (100, 75)) > 0.9
    assert 0 < sum(probable.values()) < 10
    assert not [task for task in probable if gated.mask("tall", task).any() and not probable[task]]
    np.testing.assert_array_equal(gated.mask("tall", "Edema"), expected & probable["Edema"])
    assert (otsu.masks("tall") != plus_plus.masks("tall")).any()


def test_unreadable_images_are_left_out_and_all_are_named(classifier, images, tmp_path, capsys):
    """A single line would lose its middle."""
    bad = [tmp_path / f"bad{number:02}.png" for number in range(30)]
    for file in bad:
        file.write_bytes((images / "wide.png").read_bytes()[:60])
    common = ["-m", str(classifier), "--overlays", "none", "-i", *map(str, bad)]
    with pytest.raises(PartlyDoneError, match="30 of 31 images are left out; they are named above"):
        main([*common, str(images / "tall.png"), "-o", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert not [file for file in bad if f"left out: {file}: not a readable" not in told]
    assert read_segmentations(tmp_path / "out/segmentations.json").ids == ("tall",)
    with pytest.raises(InputError, match="none of 30 images could be explained"):
        main([*common, "-o", str(tmp_path / "none")])
    with pytest.raises(InputError, match=r"bad00\.png: not a readable image"):
        main([*common[:5], str(bad[0]), "-o", str(tmp_path / "none")])
    assert {path.name for path in tmp_path.iterdir()} == {*(file.name for file in bad), "out"}


def test_an_image_whose_id_is_too_long_to_draw_is_left_out(classifier, images, tmp_path, capsys):
    long = tmp_path / ("x" * 200) / f"{'y' * 60}.png"
    long.parent.mkdir()
    long.write_bytes((images / "wide.png").read_bytes())
    flags = [
        "-m",
        str(classifier),
        "-o",
        str(tmp_path / "out"),
        "--overlays",
        "1",
        str(tmp_path),
        str(images),
    ]
    with pytest.raises(PartlyDoneError, match="1 of 3 images are left out"):
        main(flags)
    assert "yyy.png: its id is too long for a file's name" in capsys.readouterr().err
    assert read_segmentations(tmp_path / "out/segmentations.json").ids == ("tall", "wide")


def test_maps_are_compressed_and_may_be_left_out(explained, classifier, images, tmp_path):
    with zipfile.ZipFile(explained / "maps.npz") as archive:
        maps = [entry for entry in archive.infolist() if entry.filename.endswith("|map.npy")]
    assert sum(entry.compress_size for entry in maps) < 0.8 * sum(entry.file_size for entry in maps)
    out = tmp_path / "out"
    main(["-m", str(classifier), "-o", str(out), "--overlays", "none", "--maps", "1", str(images)])
    with np.load(out / "maps.npz") as archive, np.load(explained / "maps.npz") as all_maps:
        assert [name for name in archive.files if name.endswith("|map")] == [
            f"tall_{task}|map" for task in CHEXPERT.tasks
        ]
        for task in CHEXPERT.tasks:
            assert archive[f"wide_{task}|prob"] == all_maps[f"wide_{task}|prob"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--threshold", "1.5"], r"--threshold 1\.5 must be otsu, numbers in \[0, 1\)"),
        (["--threshold", "tuned"], "--threshold tuned must be otsu"),
        (["--threshold", "no.json"], r"--threshold no\.json: not a JSON of a number for each task"),
        (["--threshold", "one.json"], r"--threshold one\.json: has no 'Airspace Opacity'"),
        (["--cutoff", "-1"], r"--cutoff -1\.0 must be in \[0, 1\]"),
        (["--threshold", "object.json"], r"--threshold object\.json must be otsu"),
        (["--overlays", "some"], "--overlays some must be all, none or a number"),
        (["--maps", "few"], "--maps few must be all, none or a number"),
        (["--method", "lime"], "invalid choice: 'lime'"),
    ],
)
def test_errors_name_the_value(flags, message, classifier, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("one.json").write_text('{"Edema": 0.5}')
    Path("object.json").write_text(json.dumps({task: {"best": 0.5} for task in CHEXPERT.tasks}))
    with pytest.raises(InputError, match=message):
        main(["-m", str(classifier), "-o", "out", *flags, str(images)])
    assert not Path("out").exists()


def test_a_segmentation_is_no_classifier(golden, images, tmp_path):
    model = golden / "saved_by_718f1c4" / "model"
    with pytest.raises(InputError, match="holds a deeplabv3plus_resnet18 with 10 outputs, not a classifier"):
        main(["-m", str(model), "-o", str(tmp_path / "out"), str(images)])


def test_no_image_is_named(classifier, tmp_path):
    with pytest.raises(InputError, match="no radiograph: give images or folders"):
        main(["-m", str(classifier), "-o", str(tmp_path / "out")])
