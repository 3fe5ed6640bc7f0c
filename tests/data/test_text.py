"""What a user's text file may be instead: the same for tables, masks and task sets."""

import json

import pytest

from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import read_annotations, read_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT, read_taxonomy
from chexseg_jax.errors import InputError

READERS = {
    "train.csv": lambda path: chexpert.read_labels(path, root=path.parent),
    "gt_segmentations.json": read_segmentations,
    "gt_annotations.json": read_annotations,
    "tasks.toml": lambda path: read_taxonomy(path.parent),
}
TEXTS = {
    "train.csv": ",".join(chexpert.TEST_COLUMNS) + "\np/s/view1_frontal.jpg" + "," * 14 + "\n",
    "gt_segmentations.json": json.dumps({"a": {"Edema": {"size": [2, 2], "counts": "13"}}}),
    "gt_annotations.json": json.dumps({"a": {"img_size": [2, 2]}}),
    "tasks.toml": f"labels = {list(CHEXPERT.labels)}\ntasks = ['Edema']\n",
}


@pytest.fixture(params=READERS)
def name(request):
    return request.param


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name):
    (tmp_path / name).write_text(TEXTS[name])
    expected = READERS[name](tmp_path / name)
    (tmp_path / name).write_text("\ufeff" + TEXTS[name], encoding="utf-8")
    assert str(READERS[name](tmp_path / name)) == str(expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: b"", "is empty"),
        (lambda text: b" \r\n", "is empty"),
        (lambda text: text.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (lambda text: text.encode("utf-16-le"), "has NUL bytes, as UTF-16"),
        (lambda text: f"{text}# R\xf6ntgen".encode("latin-1"), "byte 0xf6 is not UTF-8, perhaps Latin-1"),
        (lambda text: b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (lambda text: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run git lfs pull"),
        (lambda text: b"PK\x03\x04\x14\0", "is a ZIP archive or an Excel workbook"),
        (lambda text: b"\x1f\x8b\x08\0", "is compressed by gzip"),
    ],
)
def test_other_files_under_its_name_are_told_apart(tmp_path, name, change, told):
    path = tmp_path / name
    path.write_bytes(change(TEXTS[name]))
    with pytest.raises(InputError) as error:
        READERS[name](path)
    assert str(error.value).startswith(str(path))
    assert told in str(error.value)
