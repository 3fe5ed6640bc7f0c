"""LabelMe's files, exact to the pixel."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

ASKED = ("--missing", "empty", "--view", "frontal", "--patient", "image", "--valid", "0.5", "--test", "0.5")


def box(rows, columns, size=(12, 10)):
    mask = np.zeros(size, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def labelme(path, shapes, name=None, size=(12, 10)):
    content = {
        "imagePath": name or f"{path.stem}.png",
        "imageHeight": size[0],
        "imageWidth": size[1],
        "shapes": shapes,
    }
    path.write_text(json.dumps(content))


def shape(kind, points, label="Nodule", **more):
    return {"label": label, "shape_type": kind, "points": points, **more}


def test_labelme_draws_what_labelme_draws(folder, tmp_path, bring, masks_of, capsys):
    # Expected pixels by LabelMe's rule: Pillow's shapes with their outline.
    crop = io.BytesIO()
    Image.fromarray(np.array([[True, False], [True, True]])).save(crop, "PNG")
    shapes = [
        shape("polygon", [[1, 1], [4, 1], [4, 3], [1, 3]]),
        shape("rectangle", [[8, 11], [6, 9]]),
        shape("circle", [[4, 7], [4, 8]], "Mass"),
        shape("mask", [[8, 1], [9, 2]], "Mass", mask=base64.b64encode(crop.getvalue()).decode()),
        shape("point", [[2, 2]]),
    ]
    place = tmp_path / "labelme"
    place.mkdir()
    labelme(place / "a.json", shapes, name="..\\images\\a.png")
    labelme(place / "b.json", [])
    root = bring("labelme", place, "--images", folder, *ASKED)
    both = masks_of(root) | masks_of(root, "valid")
    assert np.array_equal(both["patienta_study1_a"]["Nodule"], box((1, 4), (1, 5)) | box((9, 12), (6, 9)))
    circle = box((6, 9), (4, 5)) | box((7, 8), (3, 6))
    assert circle.sum() == 5
    drawn = both["patienta_study1_a"]["Mass"]
    assert np.array_equal(drawn[:5], box((1, 3), (8, 9))[:5] | box((2, 3), (9, 10))[:5])
    assert (drawn[5:] & circle[5:]).sum() == 5
    assert drawn[5:].sum() in (5, 9)  # the corners of so small a circle are Pillow's choice
    assert not both["patientb_study1_b"]["Nodule"].any()
    assert (
        f"left out: 1 shapes without an area (points, lines): {place / 'a.json'}: shape 4"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (shape("polygon", [[1, 1], [2, 2]]), "shape 0: its points must be at least 3 pairs"),
        (shape("polygon", [[1, 1], [2, "x"], [3, 4]]), "shape 0: its points must be"),
        (shape("oval", [[1, 1], [2, 2]]), "unknown shape 'oval'"),
        (shape("polygon", 5), "shape 0: its points must be"),
        (shape("polygon", ["12", "34", "56"]), "shape 0: its points must be"),
        (shape(["polygon"], [[1, 1], [2, 2]]), "unknown shape"),
        (shape("polygon", [], label=5), "shape 0: label is '5'; expected a text"),
        (shape("mask", [[1, 1], [2, 2]], mask=5), "not a PNG in base64"),
        ("polygon", "shape 0: label is 'None'"),
        (shape("mask", [[1, 1], [2, 2]], mask="%%"), "not a PNG in base64"),
    ],
)
def test_a_wrong_labelme_shape_is_named(folder, tmp_path, refused, one, message):
    labelme(tmp_path / "a.json", [one])
    refused(message, "labelme", tmp_path / "a.json", "--images", folder, *ASKED)


def test_labelme_files_lie_beside_their_images(images, tmp_path, bring, masks_of, capsys):
    folder = images("p1/frontal", "p2/frontal", "p3/other")
    for patient, left in (("p1", 1), ("p2", 5), ("p3", 1)):
        labelme(folder / patient / "frontal.json", [shape("rectangle", [[left, 1], [left + 2, 4]])])
    root = bring("labelme", folder, "--images", folder, *ASKED[:5], "folder", *ASKED[6:])
    both = masks_of(root) | masks_of(root, "valid")
    assert np.array_equal(both["patientp1_study1_frontal"]["Nodule"], box((1, 5), (1, 4)))
    assert np.array_equal(both["patientp2_study1_frontal"]["Nodule"], box((1, 5), (5, 8)))
    assert "1 images that are not below --images: p3/frontal.png" in capsys.readouterr().err
