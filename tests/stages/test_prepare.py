import io
import json
import os
import struct
import zlib
from dataclasses import replace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from chexseg_jax.artifact import Store
from chexseg_jax.data.chexlocalize import empty
from chexseg_jax.data.images import fit_image, read_grey, read_radiograph
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError
from chexseg_jax.sources import open_sources
from chexseg_jax.stages import prepare as stage
from chexseg_jax.stages.prepare import changed_images, prepare

SETTINGS = ConfigDict({"size": 32, "views": "both", "max_missing": 0.0})


@pytest.fixture
def sources(download, tmp_path):
    return open_sources(Store(tmp_path), ConfigDict({"root": str(download)}))


def settings(**changes):
    return ConfigDict({**SETTINGS.to_dict(), **changes})


def made(tmp_path, config, split):
    return Store(tmp_path).make("prepare", prepare, collective=True, config=config, split=split)


def test_rows_are_those_of_the_files(sources, tmp_path):
    studies = sources.train.studies
    prepared = Prepared.load(made(tmp_path, SETTINGS, sources.train))
    assert prepared.ids == tuple(studies.ids)
    assert prepared.masks is None
    for i, path in enumerate(studies.paths):
        image = read_grey(path)
        np.testing.assert_array_equal(prepared.images[i], fit_image(image, 32))
        assert tuple(prepared.sizes[i]) == image.shape
    annotated = Prepared.load(made(tmp_path, SETTINGS, sources.valid))
    assert annotated.has_mask().any()


def test_the_second_reader_belongs_to_the_test_set(sources, download, tmp_path):
    config = ConfigDict({"root": str(download)})
    file = download / "hb_segmentations_test.json"
    masks = json.loads(file.read_text())
    file.write_text(json.dumps(masks, indent=1))
    changed = open_sources(Store(tmp_path), config)
    assert changed.test.fingerprint != sources.test.fingerprint  # what was scored with it is scored anew
    assert changed.valid.fingerprint == sources.valid.fingerprint
    first = next(iter(masks))
    for task, code in masks[first].items():
        masks[first][task] = empty(code["size"][0] + 1, code["size"][1])
    file.write_text(json.dumps(masks))
    with pytest.raises(InputError, match=f"hb_segmentations_test.json: masks of {first} have height x width"):
        open_sources(Store(tmp_path), config)


def test_other_images_are_another_set(sources, download, tmp_path):
    config = ConfigDict({"root": str(download)})
    assert open_sources(Store(tmp_path), config).train.fingerprint == sources.train.fingerprint
    image = sources.train.studies.paths[0]
    image.write_bytes(image.read_bytes() + b"\0")
    changed = open_sources(Store(tmp_path), config)
    assert changed.train.fingerprint != sources.train.fingerprint
    assert changed.test.fingerprint == sources.test.fingerprint
    image.unlink()
    assert open_sources(Store(tmp_path), config).train.fingerprint != changed.train.fingerprint


def test_a_killed_preparation_goes_on_where_it_was(sources, tmp_path, monkeypatch):
    read, count = [], len(sources.train.studies)

    def killed(path):
        read.append(path)
        if len(read) == count:
            raise KeyboardInterrupt
        return read_radiograph(path)

    monkeypatch.setattr(stage, "read_radiograph", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, SETTINGS, sources.train)
    monkeypatch.setattr(stage, "read_radiograph", lambda path: read.append(path) or read_radiograph(path))
    prepared = Prepared.load(made(tmp_path, SETTINGS, sources.train))
    assert len(prepared) == count
    assert len(read) < 2 * count
    np.testing.assert_array_equal(
        prepared.images[0], fit_image(read_grey(sources.train.studies.paths[0]), 32)
    )


def test_an_image_that_is_mended_after_a_refusal_is_read(sources, tmp_path):
    broken = sources.train.studies.paths[1]
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    with pytest.raises(InputError, match=r"more than 0.0% of the .* train images cannot be read"):
        made(tmp_path, SETTINGS, sources.train)
    broken.write_bytes(content)
    folder = made(tmp_path, SETTINGS, sources.train)
    assert len(Prepared.load(folder)) == len(sources.train.studies)
    assert json.loads((folder / "left_out.json").read_text()) == {}


def test_what_processes_left_out_in_their_shares_counts_together(sources, tmp_path, monkeypatch):
    """Each of two processes stays below the limit, both together do not."""
    studies = sources.train.studies
    for i in (0, 1):  # in the first two chunks
        studies.paths[i].unlink()
    share = settings(max_missing=1.5 / len(studies))

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("chexseg_jax.artifact.on_first", lambda work, *a, **more: work(*a, **more))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for index, wait, error, told in (
        (1, stop, KeyboardInterrupt, None),  # written, and waiting for the other
        (0, lambda _: None, InputError, "more than .* cannot be read"),
    ):
        monkeypatch.setattr("chexseg_jax.data.records.wait_for_all", wait)
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        with pytest.raises(error, match=told):
            made(tmp_path, share, sources.train)


@pytest.mark.parametrize("missing", ["empty", "unknown"])
def test_images_that_the_masks_file_does_not_list_stay(missing, download, tmp_path):
    """All rows of the table; those without masks have empty or unknown ones, as the task set says."""
    taxonomy = CHEXPERT.to_dict() | {"missing": missing}
    lines = [f"{key} = {json.dumps(taxonomy[key])}" for key in ("labels", "tasks", "missing")]
    label_of = '[label_of]\n"Airspace Opacity" = "Lung Opacity"'
    (download / "tasks.toml").write_text("\n".join([*lines, label_of]))
    dropped = unlist(download / "gt_segmentations_val.json")
    split = open_sources(Store(tmp_path), ConfigDict({"root": str(download)})).valid
    prepared = Prepared.load(made(tmp_path, SETTINGS, split))
    assert prepared.ids == split.studies.ids
    np.testing.assert_array_equal(prepared.listed, [i in split.segmentations for i in prepared.ids])
    row = prepared.ids.index(dropped)
    assert not prepared.listed[row]
    assert not prepared.masks[row].any()
    assert prepared.images[row].any()
    np.testing.assert_array_equal(prepared.known.all(1), prepared.listed | (missing == "empty"))
    np.testing.assert_array_equal(prepared.known.any(1), prepared.listed | (missing == "empty"))


def test_only_an_unreadable_image_without_masks_is_left_out(download, tmp_path):
    dropped = unlist(download / "gt_segmentations_val.json")
    split = open_sources(Store(tmp_path), ConfigDict({"root": str(download)})).valid
    path = dict(zip(split.studies.ids, split.studies.paths, strict=True))
    path[dropped].unlink()
    with pytest.raises(InputError, match=r"more than 0.0% of the 8 valid images cannot be read"):
        made(tmp_path, SETTINGS, split)
    folder = made(tmp_path, settings(max_missing=0.2), split)
    assert list(json.loads((folder / "left_out.json").read_text())) == [dropped]
    prepared = Prepared.load(folder)
    assert set(split.studies.ids) - set(prepared.ids) == {dropped}
    assert len(prepared.listed) == 7
    path[split.segmentations.ids[0]].write_bytes(b"")
    with pytest.raises(InputError, match=split.segmentations.ids[0].replace("_", "/", 2)):
        made(tmp_path / "again", settings(max_missing=0.9), split)


def test_a_file_that_pillow_stumbles_over_is_one_of_those_left_out(sources, tmp_path, monkeypatch):
    """Whatever Pillow raises, one file does not end a preparation that may leave some out."""
    path, sound = sources.train.studies.paths[2], io.BytesIO()
    Image.new("L", (40, 40)).save(sound, "png")
    profile = bytes(4) + b"iCCP" + struct.pack(">I", zlib.crc32(b"iCCP"))  # an empty colour profile
    path.write_bytes(sound.getvalue()[:-12] + profile + sound.getvalue()[-12:])
    folder = made(tmp_path, settings(max_missing=0.5), sources.train)
    left_out = json.loads((folder / "left_out.json").read_text())
    assert list(left_out) == [sources.train.studies.ids[2]]
    assert "not a readable image (IndexError: index out of range)" in left_out[sources.train.studies.ids[2]]


def test_what_was_changed_in_reading_is_said(sources, tmp_path, capfd):
    turned, deep = sources.train.studies.paths[:2]
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(turned).save(turned, exif=exif)
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30)).save(deep, "png")
    made(tmp_path, SETTINGS, sources.train)
    told, count = capfd.readouterr().err, len(sources.train.studies)
    assert f"train: 1 of {count} images turned upright by its EXIF orientation" in told
    assert f"train: 1 of {count} images scaled from more than 8 bits" in told


def test_other_content_of_the_same_size_is_noticed(sources, tmp_path):
    """The files' sizes name the set; a file of another time is read again, by itself."""
    paths = sources.train.studies.paths
    for i in (0, 1, 2):
        Image.fromarray(np.full((40, 40), i, np.uint8)).save(paths[i], "bmp")
    folder = made(tmp_path, SETTINGS, sources.train)
    assert changed_images(folder, sources.train) == {}
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(paths[0], "bmp")
    os.utime(paths[1], ns=(0, 0))
    changed = changed_images(folder, sources.train)
    assert list(changed) == [sources.train.studies.ids[0]]
    again = Store(tmp_path).make("prepare", prepare, config=SETTINGS, split=sources.train, changed=changed)
    assert again != folder
    assert [Prepared.load(at).images[0][16, 16] for at in (folder, again)] == [0, 9]
    Image.fromarray(np.full((40, 40), 0, np.uint8)).save(paths[0], "bmp")
    assert changed_images(folder, sources.train) == {}


def test_files_that_are_only_touched_are_read_once(sources, tmp_path, monkeypatch):
    folder = made(tmp_path, SETTINGS, sources.train)
    os.utime(sources.train.studies.paths[1], ns=(0, 0))
    read, content = [], stage.sha256
    monkeypatch.setattr(stage, "sha256", lambda path: read.append(path) or content(path))
    before = set(folder.iterdir())
    assert changed_images(folder, sources.train, note=False) == {}
    assert set(folder.iterdir()) == before  # a dry run
    read.clear()
    assert changed_images(folder, sources.train) == {}
    assert changed_images(folder, sources.train) == {}
    assert read == [sources.train.studies.paths[1]]


def test_a_split_without_masks_of_the_wanted_views_is_refused(sources, tmp_path):
    studies, masks = sources.valid.studies, sources.valid.segmentations
    studies = replace(studies, frontal=np.arange(len(studies)) > 0)  # the only lateral view is the first
    others = {name: entry for name, entry in masks.entries.items() if name != studies.ids[0]}
    split = replace(sources.valid, studies=studies, segmentations=replace(masks, entries=others))
    with pytest.raises(
        InputError, match=r"no masks of a lateral image of the valid table; see config\.data\.views"
    ):
        made(tmp_path, settings(views="lateral"), split)


def test_images_of_other_views_and_their_masks_are_counted(sources, tmp_path, capfd):
    studies = replace(sources.valid.studies, frontal=np.arange(len(sources.valid.studies)) > 0)
    made(tmp_path, settings(views="frontal"), replace(sources.valid, studies=studies))
    masked = sum(image_id in sources.valid.segmentations for image_id in studies.ids[:1])
    told = f"valid: 1 of {len(studies)} images are lateral and left out, {masked} of them with masks; see "
    assert told in capfd.readouterr().err


def unlist(file) -> str:
    """Remove the first image from a segmentations file."""
    masks = json.loads(file.read_text())
    first = next(iter(masks))
    del masks[first]
    file.write_text(json.dumps(masks))
    return first
