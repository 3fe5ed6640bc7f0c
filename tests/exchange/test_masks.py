"""Importers of masks, on fixtures written by hand: exact to the pixel."""

import json

import numpy as np
import pytest
from dicom_files import content, dataset
from PIL import Image

from chexseg_jax.data.chexlocalize import decode
from chexseg_jax.data.chexpert import read_labels
from chexseg_jax.data.images import read_grey
from chexseg_jax.data.taxonomy import read_taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.exchange import masks
from chexseg_jax.exchange.items import Images, LeftOut
from chexseg_jax.exchange.masks import Context

ASKED = ("--missing", "empty", "--view", "frontal", "--patient", "image", "--valid", "0.5", "--test", "0.5")


def coco(path, images, annotations, categories=("Nodule", "Mass"), size=(12, 10)):
    content = {
        "images": [
            {"id": 7 + i, "file_name": n, "height": size[0], "width": size[1]} for i, n in enumerate(images)
        ],
        "annotations": [{"id": i, "image_id": 7, "category_id": 1, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, start=1)],
    }
    path.write_text(json.dumps(content))
    return path


def box(rows, columns, size=(12, 10)):
    mask = np.zeros(size, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_coco_polygons_runs_crowds_and_images_without_annotation(folder, tmp_path, bring, masks_of):
    runs = [12 * 3 + 2, 4, 12 * 6 + 6]  # rows 2 to 5 of column 3
    valid = coco(
        tmp_path / "valid.json",
        ["deep/a.png"],
        [
            {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3], [6, 6, 8, 6, 8, 9, 6, 9]]},
            {"segmentation": {"size": [12, 10], "counts": runs}, "iscrowd": 1},
        ],
    )
    test = coco(tmp_path / "test.json", ["b.png"], [])
    root = bring("coco", f"valid={valid}", f"test={test}", "--images", folder, *ASKED[:6])
    nodule = box((1, 3), (1, 4)) | box((6, 9), (6, 8)) | box((2, 6), (3, 4))
    masks = masks_of(root, "valid")["patienta_study1_a"]
    assert np.array_equal(masks["Nodule"], nodule)
    assert not masks["Mass"].any()
    assert not masks_of(root)["patientb_study1_b"]["Nodule"].any()  # annotated, and nothing found
    head, row = (root / "valid.csv").read_text().splitlines()
    assert head == "Path,Sex,Age,Frontal/Lateral,AP/PA,Nodule,Mass"
    assert row == "valid/patienta/study1/a.png,,,Frontal,,1.0,0.0"
    assert (root / "train.csv").read_text().splitlines()[1] == "train/patientc/study1/c.png,,,Frontal,,,"
    assert (root / "valid/patienta/study1/a.png").samefile(folder / "a.png")


def test_unknown_tasks_are_left_out_and_unlooked_images_go_to_train(folder, tmp_path, bring, masks_of):
    files = [
        coco(tmp_path / f"{split}.json", [name], [{"segmentation": [[1, 1, 4, 1, 4, 3]]}] * drawn)
        for split, name, drawn in (("valid", "a.png", 1), ("test", "b.png", 1), ("other", "c.png", 0))
    ]
    sources = [f"valid={files[0]}", f"test={files[1]}", files[2]]
    root = bring("coco", *sources, "--images", folder, "--missing", "unknown", *ASKED[2:6])
    assert list(masks_of(root, "valid")["patienta_study1_a"]) == ["Nodule"]
    assert (root / "valid.csv").read_text().splitlines()[1].endswith(",1.0,")
    assert "patientc" in (root / "train.csv").read_text()


def test_boxes_are_masks_only_if_that_is_said(folder, tmp_path, bring, masks_of, capsys):
    file = coco(tmp_path / "boxes.json", ["a.png", "b.png"], [{"segmentation": [], "bbox": [2, 3, 4, 5]}])
    arguments = ("coco", file, "--images", folder, *ASKED)
    masks_of(bring(*arguments, out="without"))
    assert "left out: 1 boxes without a segmentation; --boxes takes them" in capsys.readouterr().err
    root = bring(*arguments, "--boxes")
    both = masks_of(root) | masks_of(root, "valid")
    assert np.array_equal(both["patienta_study1_a"]["Nodule"], box((3, 8), (2, 6)))


def test_what_nobody_says_is_asked_for(folder, tmp_path, refused):
    file = coco(tmp_path / "c.json", ["a.png", "b.png"], [{"segmentation": [[1, 1, 4, 1, 4, 3]]}])
    start = ("coco", file, "--images", folder)
    for flag, message in (
        ("--missing", "a.png: has no mask of Mass; give --missing empty if .* --missing unknown if"),
        ("--view", "--view frontal or --view lateral"),
        ("--patient", "no source says whose it is"),
    ):
        place = ASKED.index(flag)
        refused(message, *start, *ASKED[:place], *ASKED[place + 2 :])
    refused("2 images with masks belong to no split", *start, *ASKED[:6])
    refused("--images DIR is missing", "coco", file, *ASKED)
    refused("together at most 1", *start, *ASKED[:-1], "0.7")
    refused(r"--patient '\(': not a regular", *start, *ASKED[:5], "(", *ASKED[6:])
    refused("finds no group in a.png", *start, *ASKED[:5], "x(y)", *ASKED[6:])
    refused("no image is left for valid", *start, *ASKED[:6], "--test", "1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 9}, "annotation 0: unknown category 9"),
        ({"image_id": 99}, "annotations of image 99"),
        ({"segmentation": {"size": [10, 12], "counts": [120]}}, "size .10, 12., its image"),
        ({"segmentation": None}, "neither a segmentation nor a box"),
    ],
)
def test_a_wrong_annotation_is_named(folder, tmp_path, refused, change, message):
    annotation = {"segmentation": [[1, 1, 4, 1, 4, 3]]} | change
    file = coco(tmp_path / "c.json", ["a.png", "b.png"], [annotation])
    refused(message, "coco", file, "--images", folder, *ASKED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": 7, "file_name": "a.png"}, {"id": 7, "file_name": "b.png"}]}, "images has the id 7 twice"),
        ({"categories": [{"id": 1, "name": "A"}, {"id": 1, "name": "B"}]}, "categories has the id 1 twice"),
        ({"images": [{"id": [7], "file_name": "a.png"}]}, r"images\[0\]: .* without id"),
        ({"images": [{"id": 7, "file_name": 5}]}, "image 7: file_name is '5'; expected a text"),
        ({"images": ["a.png"]}, r"images\[0\]: .* without id"),
        ({"categories": [{"id": 1, "name": ["A"]}]}, "category 1: name is .*; expected a text"),
        ({"annotations": [{"image_id": {}}]}, r"annotations\[0\]: .* without image_id"),
        ({"annotations": [5]}, r"annotations\[0\]: .* without image_id"),
        ({"annotations": [{"image_id": 7, "category_id": []}]}, "annotation None: .* without category_id"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "segmentation": 5}]}, "must be a list of polygons"),
        ({"annotations": [{"image_id": 7, "category_id": 1, "bbox": "1234"}]}, "neither a segmentation nor a box"),
        ({"images": [{"id": 7, "file_name": "\ud800.png"}]}, "not valid JSON .*surrogates not allowed"),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_coco_is_named(folder, tmp_path, refused, change, message):
    file = coco(tmp_path / "c.json", ["a.png", "b.png"], [])
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused(message, "coco", file, "--images", folder, *ASKED)


def test_images_of_another_size_or_turned_by_exif_are_refused(folder, tmp_path, refused):
    file = coco(tmp_path / "c.json", ["a.png", "b.png"], [], size=(24, 20))
    refused("a.png has height x width 24 x 20, the file .* 12 x 10", "coco", file, "--images", folder, *ASKED)
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(folder / "a.jpg", exif=turned)
    (folder / "a.png").unlink()
    file = coco(tmp_path / "c.json", ["a.jpg", "b.png"], [])
    refused("has an EXIF orientation", "coco", file, "--images", folder, *ASKED)


def test_missing_and_ambiguous_images(images, tmp_path, bring, refused, capsys):
    folder = images("x/a", "y/a", "b", "c")
    both = coco(tmp_path / "c.json", ["a.png", "b.png"], [])
    refused(
        "a.png: may be any of 2 images, such as x/a.png, y/a.png", "coco", both, "--images", folder, *ASKED
    )
    file = coco(tmp_path / "c.json", ["x/a.png", "b.png", "gone.png"], [])
    bring("coco", file, "--images", folder, *ASKED[:5], "folder", *ASKED[6:], out="some")
    assert "left out: 1 images that are not below --images: gone.png" in capsys.readouterr().err
    refused(
        "none of its images, such as q.png, is below .*, which has b.png; give the folder",
        "coco",
        coco(tmp_path / "d.json", ["q.png"], []),
        "--images",
        folder,
        *ASKED,
    )


def test_png_folders_and_names(folder, tmp_path, bring, masks_of):
    mask = box((2, 5), (3, 7))
    for task, name, values in (
        ("Nodule", "a", mask),
        ("Nodule", "b", ~mask * 255),
        ("Old_Mass", "b", mask * 255),
    ):
        (tmp_path / "masks" / task).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(values)).save(tmp_path / "masks" / task / f"{name}.png")
        (tmp_path / "flat").mkdir(exist_ok=True)
        Image.fromarray(np.uint8(values)).save(tmp_path / "flat" / f"{name}_{task}.png")
    for source in ("masks", "flat"):
        root = bring(
            "png",
            tmp_path / source,
            "--images",
            folder,
            *ASKED,
            "--rename",
            "Old_Mass=Mass",
            out=source + "r",
        )
        both = masks_of(root) | masks_of(root, "valid")
        assert np.array_equal(both["patienta_study1_a"]["Nodule"], mask)
        assert np.array_equal(both["patientb_study1_b"]["Nodule"], ~mask)
        assert np.array_equal(both["patientb_study1_b"]["Mass"], mask)
        assert not both["patienta_study1_a"]["Mass"].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((12, 10), 128, np.uint8), "has values 128; a mask has 0"),
        (np.full((10, 12), 255, np.uint8), "has 10 x 12 pixels, its image 12 x 10"),
        (np.tile(np.array([0, 0, 255], np.uint8), (12, 10, 1)), "coloured or transparent"),
    ],
)
def test_png_values_that_mean_nothing_are_refused(folder, tmp_path, refused, values, message):
    (tmp_path / "masks" / "Nodule").mkdir(parents=True)
    Image.fromarray(values).save(tmp_path / "masks" / "Nodule" / "a.png")
    refused(message, "png", tmp_path / "masks", "--images", folder, *ASKED)


def test_png_masks_are_found_by_any_case_and_litter_is_no_task(folder, tmp_path, bring, masks_of, capsys):
    mask = box((2, 5), (3, 7))
    for name in ("Nodule/a.PNG", "Nodule/b.png", ".thumbnails/a.png", "__MACOSX/a.png"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255) * mask).save(tmp_path / "masks" / name, "PNG")
    (tmp_path / "masks" / "Mass").mkdir()
    (tmp_path / "masks" / "Nodule" / "Thumbs.db").write_text("x")
    root = bring("png", tmp_path / "masks", "--images", folder, *ASKED)
    both = masks_of(root) | masks_of(root, "valid")
    assert {name: list(entry) for name, entry in both.items()} == {
        "patienta_study1_a": ["Nodule"],
        "patientb_study1_b": ["Nodule"],
    }
    assert np.array_equal(both["patienta_study1_a"]["Nodule"], mask)
    told = capsys.readouterr().err
    assert f"left out: 1 files of {tmp_path / 'masks'} that are no PNG masks: Nodule/Thumbs.db" in told
    assert f"left out: 3 folders of {tmp_path / 'masks'} without a mask: .thumbnails, Mass, __MACOSX" in told


def test_masks_that_are_not_png_or_of_no_task_are_refused(folder, tmp_path, refused):
    place = tmp_path / "masks"
    (place / "Nodule").mkdir(parents=True)
    arguments = ("png", place, "--images", folder, *ASKED)
    refused("no masks; expected PNG files, TASK/NAME.png or NAME_TASK.png", *arguments)
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(place / "a.png")
    refused("a.png: names no task; put it into a folder named as its task, TASK/a.png", *arguments)
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(place / "Nodule" / "b.tif")
    refused("b.tif: a mask must be a PNG file; save it as one", *arguments)


def test_siim_names_images_without_suffix(images, tmp_path, bring, masks_of):
    folder = images("1.2.3", "1.2.4", "1.2.5", size=(1024, 1024))
    (tmp_path / "rle.csv").write_text("ImageId, EncodedPixels\n1.2.3,5 2 1 1\n1.2.4, -1\n1.2.5,-1\n")
    source, lists = tmp_path / "rle.csv", []
    for split, name in (("valid", "1.2.3"), ("test", "1.2.4")):
        (tmp_path / f"{split}.txt").write_text(name)
        lists += [f"--{split}-list", tmp_path / f"{split}.txt"]
    root = bring(
        "siim", source, "--images", folder, *lists, *ASKED[2:6]
    )  # every mask is given: nothing to ask
    assert masks_of(root, "valid")["patient1.2.3_study1_1.2.3"]["Pneumothorax"].sum() == 3
    assert masks_of(root)["patient1.2.4_study1_1.2.4"]["Pneumothorax"].sum() == 0
    assert (root / "train.csv").read_text().splitlines()[1].endswith(",0.0")


def test_siim_gives_these_masks(images, tmp_path):
    folder = Images.below(images("x", size=(1024, 1024)))
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\nx,1025 2 1021 1\nx,0 1\n")
    (item,) = masks.read_siim(tmp_path / "rle.csv", Context(folder, LeftOut())).items
    mask = decode(item.masks["Pneumothorax"])
    assert mask.sum() == 4
    assert mask[:4, :3].astype(int).tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0]]
    for text in ("5", "5 x", f"5 {1024**2}", "", "-1 2"):
        (tmp_path / "rle.csv").write_text(f"ImageId,EncodedPixels\nx,{text}\n")
        with pytest.raises(InputError, match="line 2: EncodedPixels of x"):
            masks.read_siim(tmp_path / "rle.csv", Context(folder, LeftOut()))


def test_dicom_images_have_the_size_of_their_header(tmp_path, bring, masks_of):
    pixels = np.arange(1024**2, dtype=np.uint16).reshape(1024, 1024) % 4096
    (tmp_path / "images").mkdir()
    for name in ("1.2.3", "1.2.4", "1.2.5"):
        (tmp_path / "images" / f"{name}.dcm").write_bytes(content(dataset(pixels, bits=12)))
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\n1.2.3,5 2\n1.2.4,5 2\n")
    root = bring("siim", tmp_path / "rle.csv", "--images", tmp_path / "images", *ASKED[2:])
    both = masks_of(root) | masks_of(root, "valid")
    assert {name: entry["Pneumothorax"].shape for name, entry in both.items()} == {
        "patient1.2.3_study1_1.2.3": (1024, 1024),
        "patient1.2.4_study1_1.2.4": (1024, 1024),
    }
    studies = read_labels(root / "train.csv", root=root, taxonomy=read_taxonomy(root))
    assert read_grey(studies.paths[0]).shape == (1024, 1024)


def test_siim_run_lengths_are_of_1024_pixels(folder, tmp_path, refused):
    (tmp_path / "rle.csv").write_text("ImageId,EncodedPixels\na,-1\nb,5 2\n")
    message = "line 3: EncodedPixels of b: its runs count 1024 x 1024 pixels, the image has 12 x 10"
    refused(message, "siim", tmp_path / "rle.csv", "--images", folder, *ASKED)


VINDR = """image_id,rad_id,class_name,x_min,y_min,x_max,y_max
a,R1,Nodule,1,2,5,6
a,R2,Nodule,3,2,7,6
a,R3,No finding,,,,
b,R1,No finding,,,,
"""


@pytest.mark.parametrize(("agree", "columns"), [(1, (1, 7)), (2, (3, 5)), (3, (0, 0))])
def test_vindr_boxes_of_several_readers(folder, tmp_path, bring, masks_of, agree, columns):
    (tmp_path / "v.csv").write_text(VINDR)
    root = bring("vindr", tmp_path / "v.csv", "--images", folder, *ASKED, "--agree", agree)
    both = masks_of(root) | masks_of(root, "valid")
    assert np.array_equal(both["patienta_study1_a"]["Nodule"], box((2, 6), columns))
    assert not both["patientb_study1_b"]["Nodule"].any()


def test_vindr_boxes_of_the_test_images_are_agreed_on(folder, tmp_path, bring, masks_of):
    (tmp_path / "train.csv").write_text(VINDR.replace("b,R1,No finding,,,,\n", ""))
    (tmp_path / "test.csv").write_text("image_id,class_name,x_min,y_min,x_max,y_max\nb,Nodule,1,2,5,6\n")
    sources = (f"valid={tmp_path / 'train.csv'}", f"test={tmp_path / 'test.csv'}")
    root = bring("vindr", *sources, "--images", folder, *ASKED[:-4], "--agree", 2)
    assert np.array_equal(masks_of(root)["patientb_study1_b"]["Nodule"], box((2, 6), (1, 5)))
    assert np.array_equal(masks_of(root, "valid")["patienta_study1_a"]["Nodule"], box((2, 6), (3, 5)))


@pytest.mark.parametrize("agree", [-1, 0, 4])
def test_vindr_needs_a_number_of_readers_that_there_are(folder, tmp_path, refused, agree):
    (tmp_path / "v.csv").write_text(VINDR)
    arguments = ("vindr", tmp_path / "v.csv", "--images", folder, *ASKED, "--agree", agree)
    refused(f"v.csv: --agree {agree} must be from 1 to 3, the most who read an image", *arguments)


def test_vindr_asks_how_many_readers_must_agree(folder, tmp_path, refused):
    (tmp_path / "v.csv").write_text(VINDR)
    refused(
        "line 3: a: several radiologists.*--agree N", "vindr", tmp_path / "v.csv", "--images", folder, *ASKED
    )
    (tmp_path / "v.csv").write_text(VINDR.replace("1,2,5,6", "1,2,5,60"))
    arguments = ("vindr", tmp_path / "v.csv", "--images", folder, *ASKED, "--agree", 1)
    refused("line 2: a: box 1, 2, 5, 60 does not lie in its image", *arguments)


def test_chestxdet_polygons_and_boxes(folder, tmp_path, bring, masks_of, capsys):
    polygon = [[1, 1], [4, 1], [4, 3], [1, 3]]
    found = {"file_name": "a.png", "syms": ["Mass", "Effusion"], "boxes": [[1, 1, 4, 3], [5, 5, 8, 9]]}
    content = [
        found | {"polygons": [polygon, []]},
        {"file_name": "b.png", "syms": [], "boxes": [], "polygons": []},
    ]
    (tmp_path / "x.json").write_text(json.dumps(content))
    arguments = ("chestxdet", tmp_path / "x.json", "--images", folder, *ASKED)
    root = bring(*arguments, "--boxes", "--rename", "Effusion=Pleural Effusion")
    both = masks_of(root) | masks_of(root, "valid")
    assert np.array_equal(both["patienta_study1_a"]["Mass"], box((1, 4), (1, 5)))  # the outline included
    assert np.array_equal(both["patienta_study1_a"]["Pleural Effusion"], box((5, 9), (5, 8)))
    assert not both["patientb_study1_b"]["Mass"].any()
    bring(*arguments, out="other")
    assert "left out: 1 boxes without a polygon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a.png", "entry 0: file_name is 'None'; expected a text"),
        ({"file_name": "a.png", "syms": 5}, "a.png: syms, polygons and boxes must be lists"),
        ({"file_name": "a.png", "syms": [["Mass"]]}, "a.png: a sym must be a text, and its polygon a list"),
        ({"file_name": "a.png", "syms": ["Mass"], "polygons": [5]}, "a.png: a sym must be a text, and its polygon"),
        ({"file_name": "a.png", "syms": ["Mass"], "polygons": [[5]]}, "a.png, Mass: a polygon must be a list"),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_chestxdet_is_named(folder, tmp_path, refused, entry, message):
    (tmp_path / "x.json").write_text(json.dumps([entry]))
    refused(message, "chestxdet", tmp_path / "x.json", "--images", folder, *ASKED)


def test_two_names_of_one_task_are_joined_and_names_may_be_left_out(folder, tmp_path, bring, masks_of):
    drawn = [
        {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]},
        {"segmentation": [[6, 6, 8, 6, 8, 9, 6, 9]], "category_id": 2},
        {"segmentation": [[6, 6, 8, 6, 8, 9, 6, 9]], "category_id": 3},
    ]
    file = coco(tmp_path / "c.json", ["a.png", "b.png"], drawn, ("Nodule", "Mass", "Ruler"))
    names = ("--rename", "Nodule=Lesion", "--rename", "Mass=Lesion", "--rename", "Ruler=")
    root = bring("coco", file, "--images", folder, *ASKED, *names)
    both = masks_of(root) | masks_of(root, "valid")
    assert list(both["patienta_study1_a"]) == ["Lesion"]
    assert np.array_equal(both["patienta_study1_a"]["Lesion"], box((1, 3), (1, 4)) | box((6, 9), (6, 8)))
    with pytest.raises(InputError, match="the source has Mass, Nodule, Ruler"):
        bring("coco", file, "--images", folder, *ASKED, "--rename", "Lung=Lobe", out="other")
