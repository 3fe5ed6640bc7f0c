import os
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import chexseg_jax
from chexseg_jax import models
from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.models.normalisation import Normalisation
from chexseg_jax.predict.__main__ import main
from chexseg_jax.predict.inputs import find_images
from chexseg_jax.saved_model import save_model
from chexseg_jax.training.inference import probabilities_of


def write(path, shape):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_masks_at_full_size_and_one_overlay_per_image(tiny_run, tmp_path):
    _, run = tiny_run
    write(tmp_path / "in/valid/patient1/study2/view1_frontal.jpg", (70, 90))
    alone = write(tmp_path / "alone.png", (50, 40))
    main(["--checkpoint", str(run), "--out", str(tmp_path / "out"), str(tmp_path / "in"), str(alone)])
    predicted = read_segmentations(tmp_path / "out" / "segmentations.json")
    assert predicted.size("patient1_study2_view1_frontal") == (70, 90)
    assert predicted.masks("alone").shape == (50, 40, 10)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "segmentations.json",
        "alone.png",
        "patient1_study2_view1_frontal.png",
    }


def test_a_model_of_other_tasks(tmp_path):
    taxonomy = Taxonomy(labels=("Nodule",), tasks=("Nodule",), missing="unknown")
    module = models.create("deeplabv3plus_resnet18", num_classes=1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    variables = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    save_model(
        tmp_path,
        variables,
        name="deeplabv3plus_resnet18",
        num_classes=1,
        options={},
        size=32,
        tasks=taxonomy.tasks,
        taxonomy=taxonomy,
        normalisation=Normalisation((0.5,) * 3, (0.1,) * 3),
        thresholds={"Nodule": 0.5},
    )
    image = write(tmp_path / "a.png", (50, 40))
    main(["--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"), str(image)])
    predicted = read_segmentations(tmp_path / "out" / "segmentations.json", taxonomy)
    assert predicted.masks("a").shape == (50, 40, 1)
    assert (tmp_path / "out" / "a.png").exists()


def test_an_unreadable_image_leaves_no_files(tiny_run, tmp_path):
    _, run = tiny_run
    good, bad = write(tmp_path / "a.png", (40, 40)), tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:60])
    with pytest.raises(InputError, match=r"b\.png"):
        main(["--checkpoint", str(run), "--out", str(tmp_path / "out"), str(good), str(bad)])
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_the_output_folder_may_be_on_another_disk(tiny_run, tmp_path, monkeypatch, capsys):
    """Scratch files stay inside the output folder: its parent may be another disk, or not writable."""
    _, run = tiny_run
    out = tmp_path / "around" / "out"
    out.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", partial(_within, out, tempfile.TemporaryDirectory))
    image = write(tmp_path / "a.png", (40, 40))
    main(["--checkpoint", str(run), "--out", str(out), str(image)])
    assert {path.name for path in out.iterdir()} == {"segmentations.json", "a.png"}
    assert "a model trained on phantom: synthetic images" in capsys.readouterr().err


def _within(folder, make, *, dir, **more):
    assert Path(dir).is_relative_to(folder)
    return make(dir=dir, **more)


def test_many_batches_share_one_compiled_program(tiny_run):
    model = chexseg_jax.restore(tiny_run[1])
    images = [np.zeros((40, 40), np.uint8)] * 20
    before = probabilities_of(model.module, model.normalisation)._cache_size()
    for _ in range(3):
        model.predict(images, batch_size=9)  # a size that no other test uses
    assert probabilities_of(model.module, model.normalisation)._cache_size() == before + 1


def test_ids_below_the_folder_given_are_the_tables(tmp_path, monkeypatch):
    names = (
        "p0007/s1/frontal.png",
        "p0007/s1/1.2.840.1.jpg",
        "p0007/s1/1.2.840.2.jpg",
        "p0008/s2/frontal.png",
    )
    for name in names:
        write(tmp_path / "root" / name, (9, 9))
    rows = [{"Path": f"set/train/{name}", "Frontal/Lateral": "Frontal"} for name in names]
    chexpert.write_labels(tmp_path / "t.csv", rows)
    listed = set(chexpert.read_labels(tmp_path / "t.csv", root=tmp_path).ids)
    assert listed == {"p0007_s1_frontal", "p0007_s1_1.2.840.1", "p0007_s1_1.2.840.2", "p0008_s2_frontal"}
    for given in (tmp_path, tmp_path / "root"):
        assert set(find_images([given])) == listed
    monkeypatch.chdir(tmp_path / "root")
    assert set(find_images([Path(".")])) == listed


def test_ids_of_files_in_no_such_tree(tmp_path, monkeypatch):
    for name in ("a.png", "1.2.840.1.png", "1.2.840.2.png"):
        write(tmp_path / "flat" / name, (9, 9))
    assert set(find_images([tmp_path / "flat"])) == {"a", "1.2.840.1", "1.2.840.2"}
    monkeypatch.chdir(tmp_path / "flat")
    assert set(find_images([Path("a.png"), tmp_path / "flat/1.2.840.1.png"])) == {"a", "1.2.840.1"}
    twice = [write(tmp_path / "days" / day / "x.png", (9, 9)) for day in ("one", "two")]
    assert set(find_images([tmp_path / "days"])) == {"one_x", "two_x"}
    with pytest.raises(InputError, match=r"two/x\.png: has the id of .*one/x\.png, x;"):
        find_images(twice)
    view = write(tmp_path / "patient1/study2/view1_frontal.png", (9, 9))
    for given in (tmp_path, tmp_path / "patient1", view.parent, view):
        assert "patient1_study2_view1_frontal" in find_images([given])


def test_a_file_name_is_drawn_as_it_is_and_must_be_utf8(tiny_run, tmp_path):
    image = write(tmp_path / "x$\\frac$.png", (40, 40))
    main(["--checkpoint", str(tiny_run[1]), "--out", str(tmp_path / "out"), str(image)])
    assert (tmp_path / "out" / image.name).exists()
    latin = Path(os.fsdecode(bytes(tmp_path / "caf") + b"\xe9.png"))
    with pytest.raises(InputError, match=r"caf\\udce9\.png': its name is not UTF-8; rename it"):
        find_images([write(latin, (9, 9))])


def test_errors_name_the_path_and_the_fix(tiny_run, tmp_path):
    workdir, _ = tiny_run
    with pytest.raises(InputError, match="no such image"):
        find_images([tmp_path / "none.jpg"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder without"):
        find_images([tmp_path / "empty"])
    twice = [write(tmp_path / name / "x.png", (9, 9)) for name in ("a", "b")]
    with pytest.raises(InputError, match="predict them separately"):
        find_images(twice)
    with pytest.raises(InputError, match="is a file; give a folder"):
        main(["--checkpoint", str(workdir), "--out", str(twice[0]), str(twice[1])])
    with pytest.raises(InputError, match="--help lists the flags"):
        main(["--out", "x"])
    classifier = next(workdir.glob("artifacts/classifier-*"))
    with pytest.raises(InputError, match="not a segmentation; give a segmentation's folder"):
        main(["--checkpoint", str(classifier), "--out", str(tmp_path / "out"), str(twice[0])])
