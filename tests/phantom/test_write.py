import contextlib
import csv
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import read_annotations, read_segmentations
from chexseg_jax.data.layout import check_layout
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError
from chexseg_jax.phantom import MARKER, make, write

TINY = {"train": 14, "valid": 5, "test": 5, "size": 64, "seed": 1}


def hashes(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    arguments = ["--out", tmp_path / "out", "--patients", "400", "--processes", "2"]
    command = [sys.executable, "-m", "chexseg_jax.phantom", *map(str, arguments)]
    parent = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        # SIGINT reaches the workers too, and one that is still starting would print a traceback.
        wait_for(
            lambda: workers(parent.pid) if number == signal.SIGINT else list(tmp_path.rglob("*.jpg")), 60
        )
        os.killpg(parent.pid, number) if number == signal.SIGINT else parent.send_signal(number)
        _, told = parent.communicate(timeout=30)  # which ends when no worker holds the pipe any more
        assert parent.returncode == (-number if number == signal.SIGKILL else 128 + number)
        assert "Traceback" not in told
        assert "interrupted; rerun the command" in told or number == signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_ctrl_c_while_workers_start_waits_for_the_start_and_leaves_no_work(monkeypatch, tmp_path):
    """Else workers were left without their work, or drew the whole phantom before the program ended."""
    started, shut = [], []

    class Pool(ThreadPoolExecutor):
        def __init__(self, processes, **_):
            super().__init__(processes)

        def map(self, work, views, **_):
            os.kill(os.getpid(), signal.SIGINT)  # which the other thread receives
            time.sleep(0.2)
            started.append(True)
            return super().map(work, views)

        def shutdown(self, **options):
            shut.append(options)
            super().shutdown(**options)

    end = threading.Event()
    threading.Thread(target=end.wait, daemon=True).start()
    monkeypatch.setattr(write, "ProcessPoolExecutor", Pool)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "out", **TINY, processes=2)
    finally:
        end.set()
    assert started == [True]
    assert shut == [{"cancel_futures": True}]
    assert signal.getsignal(signal.SIGINT) == handler
    assert not list(tmp_path.iterdir())


def workers(parent):
    """The processes that it has spawned."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_seed_gives_the_same_bytes_for_any_number_of_processes(tmp_path):
    one = hashes(make(tmp_path / "one", **TINY, processes=1))
    assert hashes(make(tmp_path / "two", **TINY, processes=2)) == one
    other = hashes(make(tmp_path / "other", **TINY | {"seed": 2}, processes=1))
    images = [name for name in one if name.endswith(".jpg")]
    assert len(images) == 24
    assert not any(one[name] == other.get(name) for name in images)


def test_the_layout_is_that_of_a_download(tree):
    layout = check_layout(tree)
    assert layout.second_reader
    for split, rows in (("train", 60), ("valid", 40), ("test", 80)):
        assert len(chexpert.read_labels(layout.tables[split], root=tree)) == rows
    files = {str(path.relative_to(tree)) for path in tree.rglob("*.jpg")}
    listed = {
        row["Path"] for name in ("train.csv", "valid.csv", "test_labels.csv") for row in table(tree / name)
    }
    assert files == listed
    assert tuple(table(tree / "test_labels.csv")[0]) == ("Path", *CHEXPERT.labels)
    assert "synthetic" in (tree / MARKER).read_text()


@pytest.mark.parametrize(("name", "file"), [("val", "valid.csv"), ("test", "test_labels.csv")])
def test_masks_agree_with_images_labels_and_outlines(tree, name, file):
    masks = read_segmentations(tree / f"gt_segmentations_{name}.json")
    outlines = read_annotations(tree / f"gt_annotations_{name}.json")
    rows = {"_".join(row["Path"].removesuffix(".jpg").split("/")[2:]): row for row in table(tree / file)}
    assert list(masks.entries) == list(outlines)
    for image_id, row in rows.items():
        if image_id not in masks:
            continue
        with Image.open(tree / row["Path"]) as image:
            assert image.mode == "L"
            assert masks.size(image_id) == outlines[image_id].size == image.size[::-1]
        pixels = masks.masks(image_id)
        np.testing.assert_array_equal(
            pixels.any((0, 1)), [row[CHEXPERT.label(task)] == "1.0" for task in CHEXPERT.tasks]
        )
        np.testing.assert_array_equal(pixels, outlines[image_id].masks())


@pytest.mark.parametrize(("name", "file"), [("val", "valid.csv"), ("test", "test_labels.csv")])
def test_the_files_list_the_images_with_a_finding_and_no_others(tree, name, file):
    rows = table(tree / file)
    with_finding = {
        "_".join(row["Path"].removesuffix(".jpg").split("/")[2:])
        for row in rows
        if any(row[CHEXPERT.label(task)] == "1.0" for task in CHEXPERT.tasks)
    }
    assert 0 < len(with_finding) < len(rows)
    assert set(read_segmentations(tree / f"gt_segmentations_{name}.json").ids) == with_finding
    assert set(read_annotations(tree / f"gt_annotations_{name}.json")) == with_finding
    if name == "test":  # the second reader knew the image labels
        assert set(read_segmentations(tree / "hb_segmentations_test.json").ids) == with_finding


def test_train_has_exact_masks_and_noisy_labels(tree):
    masks = read_segmentations(tree / "phantom_train_masks.json")
    rows = table(tree / "train.csv")
    assert len(masks) == len(rows)
    assert {row[name] for row in rows for name in CHEXPERT.labels} == {"", "1.0", "0.0", "-1.0"}
    right = [
        masks.mask("_".join(row["Path"].removesuffix(".jpg").split("/")[2:]), task).any()
        for row in rows
        for task in CHEXPERT.tasks
        if row[CHEXPERT.label(task)] == "1.0"
    ]
    assert 0.85 < np.mean(right) <= 1.0


def test_sizes_vary_like_real_ones(tree):
    sizes = {Image.open(path).size for path in tree.rglob("*.jpg")}
    assert {min(size) for size in sizes} == {96}
    assert any(w > h for w, h in sizes)
    assert any(h > w for w, h in sizes)


def test_a_folder_that_is_not_a_phantom_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(InputError, match="not a phantom"):
        make(tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_lies_beside_an_older_phantom_is_not_deleted(tmp_path):
    out = make(tmp_path / "out", train=2, valid=1, test=1, size=64)
    assert {path.name for path in out.iterdir()} == write._NAMES
    (out / "work").mkdir()
    with pytest.raises(InputError, match="out/work: is no part of the phantom"):
        make(out, train=2, valid=1, test=1, size=64)
    assert (out / "work").is_dir()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/out: cannot be written"):
        make(tmp_path / "file" / "out", **TINY)


def test_a_failed_run_leaves_nothing_and_keeps_the_old_phantom(tmp_path, monkeypatch):
    out = make(tmp_path / "out", train=2, valid=1, test=1, size=64)
    before = hashes(out)
    monkeypatch.setattr(write, "_write_masks", lambda *_: 1 / 0)
    for root in (out, tmp_path / "new"):
        with pytest.raises(ZeroDivisionError):
            make(root, train=2, valid=1, test=1, size=64, seed=9)
    assert hashes(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("named", [".", "../link"])
def test_links_and_dots_are_resolved(named, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    monkeypatch.chdir(tmp_path / "out")
    make(named, train=2, valid=1, test=1, size=64)
    assert (tmp_path / "out" / write.MARKER).is_file()
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


@pytest.mark.parametrize(
    "wrong", [{"processes": -1}, {"train": 0}, {"size": 10}, {"seed": -1}, {"conspicuity": 0.0}]
)
def test_a_number_out_of_range_is_named(tmp_path, wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}="):
        make(tmp_path / "out", **TINY | wrong)


def test_workers_do_not_import_jax():
    code = "import sys, chexseg_jax.phantom.__main__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
