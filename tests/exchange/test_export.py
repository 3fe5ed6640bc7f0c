"""What is exported and imported again is the same root."""

import csv
import json
from pathlib import Path

import pytest

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation.__main__ import evaluate
from chexseg_jax.exchange.__main__ import main

JSONS = ("gt_segmentations_val.json", "gt_segmentations_test.json")


def find(root, name):
    return next(Path(root).rglob(name))


def entries(root):
    return [read_segmentations(find(root, name)).entries for name in JSONS]


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


def test_a_prediction_is_exported_with_its_images(download, send, tmp_path):
    file = find(download, JSONS[1])
    with pytest.raises(InputError, match="--images DIR is missing"):
        send("coco", file)
    assert not (tmp_path / "sent").exists()
    sent = send("coco", file, "--images", file.parent)
    content = json.loads((sent / f"{file.stem}.json").read_text())
    assert all((file.parent / entry["file_name"]).is_file() for entry in content["images"])
    assert [category["name"] for category in content["categories"]] == [*CHEXPERT.tasks]
    with pytest.raises(InputError, match="exists already"):
        send("coco", file, "--images", file.parent)


def test_an_import_writes_over_nothing(download, send, bring, tmp_path):
    sent = send("png", download)
    (tmp_path / "root").mkdir()
    with pytest.raises(InputError, match="exists already"):
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
