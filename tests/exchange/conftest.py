import numpy as np
import pytest
from PIL import Image

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.taxonomy import read_taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.__main__ import export_main, import_main


@pytest.fixture
def images(tmp_path):
    """`images("a", "b")` makes a folder with a.png and b.png, of height 12 and width 10."""

    def make(*names, size=(12, 10), folder="images"):
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        for number, name in enumerate(names):
            path = place / (name if name.endswith((".png", ".jpg")) else f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(size, 40 + number, np.uint8)).save(path)
        return place

    return make


@pytest.fixture
def bring(tmp_path):
    """`bring("coco", "a.json", "--flag", ...)` imports into tmp_path / "root" and returns that."""

    def bring(*arguments, out="root"):
        import_main([*map(str, arguments), "--out", str(tmp_path / out)])
        return tmp_path / out

    return bring


@pytest.fixture
def send(tmp_path):
    def send(*arguments, out="sent"):
        export_main([*map(str, arguments), "--out", str(tmp_path / out)])
        return tmp_path / out

    return send


@pytest.fixture
def masks_of():
    """`masks_of(root, split)` is {id: {task: mask}} of a root."""

    def masks_of(root, split="test"):
        name = {"valid": "val", "test": "test"}[split]
        read = read_segmentations(root / f"gt_segmentations_{name}.json", read_taxonomy(root))
        return {i: {task: read.mask(i, task) for task in read.entries[i]} for i in read.ids}

    return masks_of


@pytest.fixture
def folder(images):
    """A folder with a.png, b.png and c.png."""
    return images("a", "b", "c")


@pytest.fixture
def refused(bring, tmp_path):
    """`refused("message", "coco", ...)` imports nothing and leaves nothing behind."""

    def refused(message, *arguments):
        with pytest.raises(InputError, match=message):
            bring(*arguments)
        assert not (tmp_path / "root").exists()
        assert not list(tmp_path.glob(".root*"))

    return refused
