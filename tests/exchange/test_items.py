"""The files that names in a source stand for."""

import os

import numpy as np
import pytest
from PIL import Image

from chexseg_jax.errors import InputError
from chexseg_jax.exchange.items import Images, image_size

CHEXPERT = "train/patient1/study1/view1_frontal.jpg"


@pytest.mark.parametrize(
    ("files", "name", "found"),
    [
        (["p1/frontal.png"], "p2/frontal.png", None),
        (["p1/frontal.png", "p3/frontal.png"], "p2/frontal.png", None),
        (["p1/frontal.png", "p2/frontal.png"], "p2/frontal.jpg", "p2/frontal.png"),
        (["a/p1/frontal.png"], "p1/frontal", "a/p1/frontal.png"),
        (["p1/frontal.png"], "..\\deep/p1/frontal.png", "p1/frontal.png"),
        (["001.png", "sub/001.png"], "001.png", "001.png"),
        (["001.png", "sub/001.png"], "001", "001.png"),
        (["001.png", "sub/001.png"], "sub/001", "sub/001.png"),
        (["a.png", "x/a.png"], "x_a", "x/a.png"),
        (["a.png", "x/a.png"], "a", "a.png"),
        (["PA1/ST0/SE0/IM0.png"], "PA1_ST0_SE0_IM0", "PA1/ST0/SE0/IM0.png"),  # as predict calls it
        (["x/a.png", "y/a.jpg"], "a.jpg", "y/a.jpg"),
        (["1.2.3.png", "1.2.4.png"], "1.2.4", "1.2.4.png"),
        # CheXlocalize calls CheXpert's folder `valid` `val`: the id is the image's.
        ([CHEXPERT], f"CheXpert-v1.0/valid/{CHEXPERT[6:]}", CHEXPERT),
        ([CHEXPERT], "patient1_study1_view1_frontal", CHEXPERT),
        ([CHEXPERT], "patient2/study1/view1_frontal.jpg", None),
    ],
)
def test_a_name_stands_for_the_image_whose_folders_do_not_differ(images, files, name, found):
    folder = images(*files)
    path = Images.below(folder).find(name)
    assert path == (found and folder / found)


@pytest.mark.parametrize("name", ["a", "a.png", "z/a.png"])
def test_a_name_of_several_images_is_refused(images, name):
    folder = images("x/z/a", "y/z/a")
    with pytest.raises(InputError, match=f"{name}: may be any of 2 images, such as x/z/a.png, y/z/a.png"):
        Images.below(folder).find(name)


def test_litter_is_no_image_and_a_cycle_of_links_ends(images):
    folder = images("1", ".thumbnails/1", "__MACOSX/2", "sub/.3")
    (folder / "all").symlink_to(".")
    assert Images.below(folder).files == [folder / "1.png"]


def test_a_name_that_is_not_utf8_is_refused(images):
    folder = images("a")
    (folder / "a.png").rename(folder / os.fsdecode(b"\xe9.png"))
    with pytest.raises(InputError, match=r"^'.udce9.png': its name is not UTF-8; rename it"):
        Images.below(folder)


def test_a_huge_image_is_refused_in_one_line(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(InputError, match=r"a.png: not a readable image .*exceeds limit"):
        image_size(tmp_path / "a.png")
