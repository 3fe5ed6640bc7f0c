import csv
import os
from pathlib import Path

import numpy as np
import pytest
from dicom_files import content, dataset
from PIL import Image
from tiny import save_random

import chexseg_jax
from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import read_segmentations, write_segmentations
from chexseg_jax.data.images import read_radiograph, resize_map, unfit_map
from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy
from chexseg_jax.errors import InputError, PartlyDoneError, run_command
from chexseg_jax.evaluation import published
from chexseg_jax.files import Lock
from chexseg_jax.predict import outputs
from chexseg_jax.predict.__main__ import main
from chexseg_jax.predict.inputs import find_images
from chexseg_jax.training.inference import probabilities_of


def write(path, shape):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def files(folder):
    return {
        str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and ".predict" not in f.parts
    }


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A segmentation with random weights."""
    folder = tmp_path_factory.mktemp("model")
    save_random(folder, CHEXPERT)
    return folder


def test_masks_at_full_size_and_one_overlay_per_image(tiny_run, tmp_path):
    _, run = tiny_run
    write(tmp_path / "in/valid/patient1/study2/view1_frontal.jpg", (70, 90))
    alone = write(tmp_path / "alone.png", (50, 40))
    main(["--checkpoint", str(run), "--out", str(tmp_path / "out"), str(tmp_path / "in"), str(alone)])
    predicted = read_segmentations(tmp_path / "out" / "segmentations.json")
    assert predicted.size("patient1_study2_view1_frontal") == (70, 90)
    assert predicted.masks("alone").shape == (50, 40, 10)
    assert files(tmp_path / "out") == {
        "segmentations.json",
        "summary.csv",
        "alone.png",
        "patient1_study2_view1_frontal.png",
    }


def test_a_model_of_other_tasks(tmp_path):
    taxonomy = Taxonomy(labels=("Nodule",), tasks=("Nodule",), missing="unknown")
    save_random(tmp_path / "model", taxonomy)
    image = write(tmp_path / "a.png", (50, 40))
    main(["--checkpoint", str(tmp_path / "model"), "--out", str(tmp_path / "out"), str(image)])
    predicted = read_segmentations(tmp_path / "out" / "segmentations.json", taxonomy)
    assert predicted.masks("a").shape == (50, 40, 1)
    assert (tmp_path / "out" / "a.png").exists()


def test_a_folder_with_predictions_of_other_tasks_is_refused_before_anything_is_predicted(tmp_path):
    out = tmp_path / "out"
    for name, tasks in (("one", ("Nodule",)), ("two", ("Nodule", "Mass"))):
        save_random(tmp_path / name, Taxonomy(labels=tasks, tasks=tasks))
    images = [str(write(tmp_path / f"{name}.png", (50, 40))) for name in "ab"]
    main(["-m", str(tmp_path / "one"), "-o", str(out), images[0], "--save", "maps"])
    with pytest.raises(InputError, match="holds the prediction of a with other tasks; give another folder"):
        main(["-m", str(tmp_path / "two"), "-o", str(out), images[1], "--save", "json"])
    assert files(out) == {"maps/a.npz"}


def test_every_file_moves_within_the_output_folder(model, tmp_path, monkeypatch):
    """Scratch files stay inside the output folder: its parent may be another disk, or not writable."""
    out, replace = tmp_path / "around" / "out", os.replace
    monkeypatch.setattr(
        os, "replace", lambda a, b: replace(a, b) if Path(a).is_relative_to(out) else pytest.fail(str(a))
    )
    main(["-m", str(model), "-o", str(out), str(write(tmp_path / "a.png", (40, 40)))])
    assert files(out) == {"segmentations.json", "summary.csv", "a.png"}


def test_a_bad_image_is_named_at_the_end_and_the_others_are_done(model, tmp_path, capsys):
    images = [write(tmp_path / f"in/{k:02}.png", (40, 40)) for k in range(6)]
    images[3].write_bytes(images[3].read_bytes()[:60])
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main(["-m", str(model), "-o", str(tmp_path / "out"), str(tmp_path / "in")]))
    assert stop.value.code == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "error: 1 of 6 images were not predicted; they are named above"
    assert any("not predicted: " in line and "03.png: not a readable image" in line for line in told)
    assert len(read_segmentations(tmp_path / "out/segmentations.json")) == 5


def test_where_no_image_is_readable_nothing_is_written(model, tmp_path, capsys):
    bad = tmp_path / "b.png"
    bad.write_bytes(b"none")
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main(["-m", str(model), "-o", str(tmp_path / "out"), str(bad)]))
    assert stop.value.code == 2
    assert "b.png: not a readable image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_second_call_adds_reuses_what_is_equal_and_replaces_what_is_not(model, tmp_path, capsys):
    one, two, out = (
        write(tmp_path / "one.png", (40, 50)),
        write(tmp_path / "two.png", (30, 40)),
        tmp_path / "out",
    )
    main(["-m", str(model), "-o", str(out), str(one)])
    first = (out / "one.png").stat().st_mtime_ns
    main(["-m", str(model), "-o", str(out), "-i", str(two), str(one)])
    assert "1 of 2 images were finished before and are reused" in capsys.readouterr().err
    assert (out / "one.png").stat().st_mtime_ns == first
    assert read_segmentations(out / "segmentations.json").ids == ("one", "two")
    before = (out / "summary.csv").read_text()
    write(one, (60, 50))
    main(["-m", str(model), "-o", str(out), str(one)])
    told = capsys.readouterr().err
    assert "1 of 1 images were predicted again: their file" in told
    assert f"{out} keeps 1 other images of earlier calls\n" in told
    predicted = read_segmentations(out / "segmentations.json")
    assert predicted.size("one") == (60, 50)
    assert predicted.size("two") == (30, 40)
    lines = (out / "summary.csv").read_text().splitlines()
    assert lines[11:] == before.splitlines()[11:]  # those of `two`
    main(["-m", str(model), "-o", str(out), str(one), "--threshold", "0.9"])
    told = capsys.readouterr().err
    assert "predicted again" in told
    assert "1 other images of earlier calls, 1 of them of another model or threshold" in told


def test_a_prediction_of_what_a_damaged_file_was_before_is_named(model, tmp_path):
    image, out = write(tmp_path / "a.png", (40, 30)), tmp_path / "out"
    arguments = ["-m", str(model), "-o", str(out), str(image), "--save", "json"]
    main(arguments)
    image.write_bytes(b"none")
    with pytest.raises(
        InputError, match=r"a.png: not a readable image.*out keeps the prediction of what the file was"
    ):
        main(arguments)
    assert read_segmentations(out / "segmentations.json").ids == ("a",)


def test_a_call_adds_to_files_of_an_earlier_version(model, tmp_path):
    """Of which there are no records."""
    out, mask = tmp_path / "out", np.ones((9, 9), bool)
    write_segmentations(out / "segmentations.json", {"earlier": {"Edema": mask}})
    main(["-m", str(model), "-o", str(out), str(write(tmp_path / "a.png", (40, 50)))])
    assert read_segmentations(out / "segmentations.json").ids == ("a", "earlier")
    (out / "summary.csv").write_text("other,columns\n")
    with pytest.raises(InputError, match="its columns are not image, task"):
        main(["-m", str(model), "-o", str(out), str(tmp_path / "a.png")])


def test_all_that_save_names_agrees(model, tmp_path, monkeypatch, capsys):
    image, out = write(tmp_path / "a.png", (90, 70)), tmp_path / "out"
    monkeypatch.setattr(
        outputs, "read_radiograph", lambda file: read_radiograph(file)._replace(spacing=(0.5, 0.25))
    )
    main(["-m", str(model), "-o", str(out), str(image), "--save", "json,csv,masks,maps,dicomseg"])
    assert "1 of 1 images are no DICOM and have no DICOM-SEG" in capsys.readouterr().err
    predicted = read_segmentations(out / "segmentations.json")
    masks = predicted.masks("a")
    assert 0 < masks.mean() < 1
    maps = np.load(out / "maps/a.npz")
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    for k, (task, row) in enumerate(zip(CHEXPERT.tasks, rows, strict=True)):
        values = maps[f"a_{task}|map"]
        np.testing.assert_array_equal(np.array(Image.open(out / f"masks/{task}/a.png")), masks[..., k])
        np.testing.assert_array_equal(resize_map(values, (90, 70)) > np.float64(0.5), masks[..., k])
        assert (row["image"], row["task"], row["threshold"]) == ("a", task, "0.5")
        assert float(row["score"]) == pytest.approx(values.max(), abs=1e-4)
        assert int(row["pixels"]) == masks[..., k].sum()
        assert float(row["mm2"]) == pytest.approx(masks[..., k].sum() / 8, abs=0.1)
        covered = np.zeros((90, 70), bool)
        for box in filter(None, row["boxes"].split("; ")):
            x0, y0, x1, y1 = map(int, box.split())
            covered[y0:y1, x0:x1] = True
        assert not (masks[..., k] & ~covered).any()
    assert published.hits(predicted, out / "maps")[1] == ()


def test_masks_are_those_of_the_whole_picture(model, tmp_path):
    """As earlier versions made them: all maps at full size, then the thresholds."""
    image = write(tmp_path / "a.png", (300, 211))
    main(["-m", str(model), "-o", str(tmp_path / "out"), str(image), "--save", "json"])
    restored, grey = chexseg_jax.restore(model), read_radiograph(image).grey
    (square,) = restored.predict([grey], batch_size=1)
    expected = unfit_map(square, grey.shape) > np.array(
        [restored.thresholds[task] for task in restored.tasks]
    )
    predicted = read_segmentations(tmp_path / "out/segmentations.json").masks("a")
    np.testing.assert_array_equal(predicted, expected)


def test_overlays_none_or_some(model, tmp_path):
    for name in "abc":
        write(tmp_path / f"in/{name}.png", (40, 40))
    common = ["-m", str(model), str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--overlays"]
    for count, drawn in (("none", set()), ("2", {"a.png", "b.png"}), ("all", {"a.png", "b.png", "c.png"})):
        main([*common, count])
        assert files(tmp_path / "out") == {"segmentations.json", "summary.csv"} | drawn


def test_files_of_the_user_are_never_replaced(model, tmp_path):
    """Masks drawn by hand have the names of overlays; a reader's masks have the name of the JSON."""
    for name in ("000", "001"):
        write(tmp_path / f"images/{name}.png", (40, 40))
    out, mask = tmp_path / "out", write(tmp_path / "out/001.png", (40, 40))
    drawn, common = mask.read_bytes(), ["-m", str(model), str(tmp_path / "images"), "-o", str(out)]
    for _ in range(2):
        with pytest.raises(InputError, match=r"out/001\.png: the prediction of 001 would replace it"):
            main(common)
        main([*common, "--save", "json"])  # the second time, 001 has a record
    assert files(out) == {"001.png", "segmentations.json"}
    assert mask.read_bytes() == drawn
    mask.unlink()
    main(common)
    (out / "001.png").write_bytes(b"")  # it is in the record
    write(tmp_path / "images/001.png", (50, 40))
    main(common)
    assert (out / "001.png").read_bytes() != b""
    other = tmp_path / "other"
    write_segmentations(other / "segmentations.json", {"001": {"Edema": np.ones((40, 40), bool)}})
    with pytest.raises(InputError, match=r"other/segmentations\.json: the prediction of 001 would replace"):
        main([*common[:-1], str(other)])
    assert files(other) == {"segmentations.json"}
    assert read_segmentations(other / "segmentations.json").mask("001", "Edema").all()


def test_a_call_that_is_killed_while_it_moves_an_image_is_continued(model, tmp_path, monkeypatch):
    images = [str(write(tmp_path / f"{name}.png", (40, 40))) for name in "ab"]
    common = ["-m", str(model), *images, "--save", "json,csv,overlays,maps,masks", "-o"]
    main([*common, str(tmp_path / "whole")])
    moves, replace = [], Path.replace

    def killed(path, target):
        if "part" in path.parts:
            moves.append(target)
            if len(moves) == 15:
                raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        main([*common, str(tmp_path / "cut")])
    assert len(files(tmp_path / "cut")) == 14
    main([*common, str(tmp_path / "cut")])
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    for name in files(tmp_path / "cut"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_image_whose_files_cannot_be_written_leaves_none(model, tmp_path, capsys):
    """For want of an identifier that a DICOM-SEG refers to, or by an id that is too long for a file's name."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    write(tmp_path / "in" / ("x" * 100) / ("y" * 100) / f"{'z' * 60}.png", (40, 40))
    for name, study in (("a", "1.2.3"), ("b", "")):
        (tmp_path / f"in/{name}.dcm").write_bytes(content(dataset(pixels, StudyInstanceUID=study)))
    save, out = "json,csv,overlays,masks,dicomseg", tmp_path / "out"
    with pytest.raises(PartlyDoneError, match="2 of 3 images were not predicted"):
        main(["-m", str(model), "-o", str(out), str(tmp_path / "in"), "--save", save])
    told = capsys.readouterr().err
    assert "b.dcm: without StudyInstanceUID, which a DICOM segmentation refers to; save other formats" in told
    assert "zzz.png: its id is too long for a file's name; shorten" in told
    masks = {f"masks/{task}/a.png" for task in CHEXPERT.tasks}
    assert files(out) == {"a.png", "segmentations.json", "summary.csv", "dicomseg/a.dcm", *masks}
    assert read_segmentations(out / "segmentations.json").ids == ("a",)


def test_each_task_has_a_folder_of_its_own(tmp_path):
    tasks = ("Mass/Nodule", "Mass:Nodule", "..")
    save_random(tmp_path / "model", Taxonomy(labels=tasks, tasks=tasks))
    image = write(tmp_path / "a.png", (40, 40))
    main(["-m", str(tmp_path / "model"), "-o", str(tmp_path / "out"), str(image), "--save", "masks"])
    folders = ("Mass%2FNodule", "Mass%3ANodule", "%2E.")
    assert files(tmp_path / "out") == {f"masks/{folder}/a.png" for folder in folders}


def test_two_calls_into_one_folder(model, tmp_path):
    image, lock = write(tmp_path / "a.png", (40, 40)), Lock(tmp_path / "out/.predict/lock")
    assert lock.acquire()
    with pytest.raises(InputError, match="another call is writing into it"):
        main(["-m", str(model), "-o", str(tmp_path / "out"), str(image)])
    lock.release()
    main(["-m", str(model), "-o", str(tmp_path / "out"), str(image)])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--save", "json,pdf"], "--save 'pdf' must be one or several of json,csv,masks,"),
        (["--threshold", "1"], "--threshold 1.0 must be at least 0 and below 1"),
        (["--overlays", "few"], "--overlays few must be all, none or a number"),
        ([], "no radiograph: give images"),
    ],
)
def test_flags_that_mean_nothing(flags, told, tmp_path):
    with pytest.raises(InputError, match=told):
        main(["-m", "x", "-o", str(tmp_path / "out"), *flags])


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
    assert set(find_images([tmp_path / "root"])) == listed
    assert set(find_images([tmp_path])) == {f"root_{name}" for name in listed}
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
