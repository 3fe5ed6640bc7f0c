"""What is exported and imported again is the same root."""

import csv
import json
from pathlib import Path

import pytest

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT, read_taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.__main__ import evaluate
from chexseg_jax.exchange.__main__ import main

JSONS = ("gt_segmentations_val.json", "gt_segmentations_test.json")


def find(root, name):
    return next(Path(root).rglob(name))


def entries(root):
    return [read_segmentations(find(root, name), read_taxonomy(root)).entries for name in JSONS]


def bring_back(form, sent, root, bring):
    sources = [sent] if form == "png" else [f"{split}={sent / split}.json" for split in ("valid", "test")]
    return bring(form, *sources, "--labels", root, "--missing", "empty")


@pytest.mark.parametrize("flags", [("coco",), ("coco", "--rle"), ("png",)], ids=" ".join)
def test_a_round_trip_of_the_phantom(download, send, bring, flags):
    sent = send(flags[0], download, *flags[1:])
    original = entries(download)
    for name in JSONS:  # an import must not get the masks from the root that gives the labels
        find(download, name).unlink()
    back = bring_back(flags[0], sent, download, bring)
    assert entries(back) == original
    assert not (back / "tasks.toml").exists()
    for name in ("train.csv", "valid.csv", "test_labels.csv"):
        old, new = (list(csv.DictReader(find(root, name).open())) for root in (download, back))
        kept = [{**row, "Path": Path(row["Path"]).parts[-3:]} for row in new]
        assert [{key: row[key] for key in was} for row, was in zip(kept, old, strict=True)] == [
            {**row, "Path": Path(row["Path"]).parts[-3:]} for row in old
        ]


def test_corrected_images_replace_only_their_masks(download, send, bring):
    sent = send("coco", download)
    content = json.loads((sent / "test.json").read_text())
    image = next(a["image_id"] for a in content["annotations"])
    content["images"] = [entry for entry in content["images"] if entry["id"] == image]
    content["annotations"] = []
    (sent / "corrected.json").write_text(json.dumps(content))
    back = bring("coco", sent / "corrected.json", "--labels", download)
    (old_valid, old_test), (valid, test) = entries(download), entries(back)
    name = next(i for i in old_test if test[i] != old_test[i])
    assert Path(content["images"][0]["file_name"]).stem in name
    assert len({code["counts"] for code in test[name].values()}) == 1  # all empty
    assert valid == old_valid
    assert {i: codes for i, codes in test.items() if i != name} == {
        i: codes for i, codes in old_test.items() if i != name
    }


def drawn_by_hand(path, annotations):
    """COCO's JSON of images a to d, of height 12 and width 10; annotations are {image: tasks}."""
    square = {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}
    tasks = ("Nodule", "Mass")
    content = {
        "images": [{"id": name, "file_name": f"{name}.png", "height": 12, "width": 10} for name in "abcd"],
        "annotations": [
            {"image_id": name, "category_id": task, **square}
            for name in annotations
            for task in annotations[name]
        ],
        "categories": [{"id": task, "name": task} for task in tasks],
    }
    path.write_text(json.dumps(content))
    return path


ASKED = ("--view", "frontal", "--patient", "image", "--valid", "0.5", "--test", "0.5")


def labels_by_hand(root):
    """{image's name: its labels of Nodule and Mass} in valid and test."""
    rows = [row for name in ("valid.csv", "test_labels.csv") for row in csv.DictReader((root / name).open())]
    return {Path(row["Path"]).stem: (row["Nodule"], row["Mass"]) for row in rows}


def test_masks_known_to_be_empty_stay_known(images, tmp_path, bring, send):
    root = bring(
        "coco", drawn_by_hand(tmp_path / "c.json", {"a": ["Nodule"], "b": [], "c": ["Mass"], "d": ["Mass"]}),
        "--images", images(*"abcde"), "--missing", "empty", *ASKED,
    )  # fmt: skip
    file = root / "tasks.toml"
    file.write_text(file.read_text().replace('"empty"', '"unknown"'))
    sent = send("coco", root)
    sources = [f"{split}={sent / split}.json" for split in ("valid", "test")]
    assert entries(bring("coco", *sources, "--labels", root, out="back")) == entries(root)


def test_labels_of_masks_change_with_the_masks(images, tmp_path, bring, capsys):
    folder = images(*"abcde")
    first = drawn_by_hand(tmp_path / "c.json", {"a": ["Mass"], "b": ["Mass", "Nodule"], "c": [], "d": []})
    asked = ("--missing", "empty", *ASKED)
    root = bring("coco", first, "--images", folder, *asked)
    new = drawn_by_hand(tmp_path / "new.json", {"a": ["Mass"], "b": ["Nodule"], "c": ["Mass"], "d": []})
    corrected = bring("coco", new, "--labels", root, out="corrected")
    assert labels_by_hand(corrected) == {
        "a": ("0.0", "1.0"), "b": ("1.0", "0.0"), "c": ("0.0", "1.0"), "d": ("0.0", "0.0"),
    }  # fmt: skip
    assert "contradict" not in capsys.readouterr().err
    # A table's labels are kept: Mass is positive in an image without masks, too.
    (tmp_path / "t.csv").write_text("Path,Mass\na,1\nb,1\nc,0\nd,0\ne,1\n")
    root = bring("coco", first, "--images", folder, "--labels", tmp_path / "t.csv", *asked, out="table")
    capsys.readouterr()
    kept = bring("coco", new, "--labels", root, out="kept")
    assert labels_by_hand(kept) == labels_by_hand(root)
    assert "2 labels contradict the masks of their images, and are kept: Mass of " in capsys.readouterr().err


def test_a_mask_speaks_where_the_table_is_blank(images, tmp_path, bring):
    drawn = drawn_by_hand(tmp_path / "c.json", {"a": ["Mass"], "b": ["Mass"], "c": [], "d": ["Mass"]})
    (tmp_path / "t.csv").write_text("Path,Mass\na,\nb,0\nc,\nd,1\ne,\n")
    root = bring(
        "coco",
        drawn,
        "--images",
        images(*"abcde"),
        "--labels",
        tmp_path / "t.csv",
        "--missing",
        "empty",
        *ASKED,
    )
    mass = {name: value for name, (_, value) in labels_by_hand(root).items()}
    assert mass == {"a": "1.0", "b": "0.0", "c": "0.0", "d": "1.0"}


def test_flags_without_a_use_are_refused(images, tmp_path, bring, send):
    drawn = drawn_by_hand(tmp_path / "c.json", {"a": ["Mass"], "b": ["Mass"], "c": [], "d": ["Mass"]})
    folder = images(*"abcde")
    arguments = "coco", drawn, "--images", folder, "--missing", "empty", *ASKED
    for flag in (["--agree", 0], ["--columns", "image=x"], ["--reports", "r.csv"]):
        with pytest.raises(InputError, match=f"{flag[0]} is for .*; coco does not use it"):
            bring(*arguments, *flag)
    root = bring(*arguments)
    with pytest.raises(InputError, match="--rle is for coco; png does not use it"):
        send("png", root, "--rle")
    with pytest.raises(InputError, match="the images are those of the root"):
        send("coco", root, "--images", folder)
    assert not (tmp_path / "sent").exists()


@pytest.mark.parametrize("task", ["..", ".hidden", "a/b"])
def test_a_task_that_cannot_name_a_folder_is_refused(images, tmp_path, bring, send, task):
    drawn = drawn_by_hand(tmp_path / "c.json", {"a": ["Mass"], "b": ["Mass"], "c": [], "d": ["Mass"]})
    arguments = "coco", drawn, "--images", images(*"abcde"), "--missing", "empty", *ASKED
    root = bring(*arguments, "--rename", f"Mass={task}")
    with pytest.raises(InputError, match="cannot name a folder"):
        send("png", root)


def test_what_comes_of_a_phantom_is_marked_as_one(download, send, bring, images, tmp_path):
    marker = (download / "PHANTOM.md").read_text()
    assert (bring_back("coco", send("coco", download), download, bring) / "PHANTOM.md").read_text() == marker
    file = drawn_by_hand(tmp_path / "c.json", {})
    real = bring("coco", file, "--images", images(*"abcde"), "--missing", "empty", *ASKED, out="real")
    assert not (real / "PHANTOM.md").exists()


def test_ids_that_end_in_another_id_are_exported(images, tmp_path, send):
    code = {"size": [12, 10], "counts": [10, 4, 106]}
    (tmp_path / "masks.json").write_text(json.dumps({name: {"Edema": code} for name in ("a", "x_a")}))
    sent = send("coco", tmp_path / "masks.json", "--images", images("a", "x/a"))
    content = json.loads((sent / "masks.json").read_text())
    assert [entry["file_name"] for entry in content["images"]] == ["a.png", "x/a.png"]


def test_a_prediction_is_exported_with_its_images(download, send, tmp_path):
    file = find(download, JSONS[1])
    with pytest.raises(InputError, match="--images DIR is missing"):
        send("coco", file)
    assert not (tmp_path / "sent").exists()
    sent = send("coco", file, "--images", file.parent)
    content = json.loads((sent / f"{file.stem}.json").read_text())
    assert all((file.parent / entry["file_name"]).is_file() for entry in content["images"])
    assert [category["name"] for category in content["categories"]] == [*CHEXPERT.tasks]
    with pytest.raises(InputError, match="already exists"):
        send("coco", file, "--images", file.parent)


def test_an_import_writes_over_nothing(download, send, bring, tmp_path):
    sent = send("png", download)
    (tmp_path / "root").mkdir()
    with pytest.raises(InputError, match="already exists"):
        bring_back("png", sent, download, bring)
    assert not list((tmp_path / "root").iterdir())


def test_a_root_brings_its_own_images(download, bring, tmp_path):
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="the images are the root's; leave --images out"):
        bring("coco", tmp_path / "c.json", "--labels", download, "--images", download)


def test_the_module_knows_both_commands():
    with pytest.raises(InputError, match="expected import or export"):
        main(["inport"])
    with pytest.raises(InputError, match="invalid choice: 'coca'"):
        main(["import", "coca", "x", "--out", "y"])


@pytest.mark.real_data
def test_real_radiographs_have_equal_masks_and_scores(shared, send, bring, tmp_path):
    root = shared / "nih_cxr"
    back = bring_back("coco", send("coco", root), root, bring)
    assert entries(back) == entries(root)
    for out, (truth, prediction) in {"one": (root, back), "other": (back, root)}.items():
        sides = (read_segmentations(where / JSONS[1]) for where in (truth, prediction))
        evaluate(*sides, tmp_path / out)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.csv"))
    assert files
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


@pytest.mark.real_data
def test_real_radiographs_have_equal_png_masks(shared, send, bring):
    root = shared / "nih_cxr"
    assert entries(bring_back("png", send("png", root), root, bring)) == entries(root)
