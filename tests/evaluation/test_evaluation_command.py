import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from chexseg_jax.data.chexlocalize import write_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT, read_taxonomy
from chexseg_jax.errors import InputError, run_command
from chexseg_jax.evaluation.__main__ import main


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluation", *map(str, arguments)])
    main()


def flags(folder):
    return "--gt", folder / "gt.json", "--pred", folder / "pred.json", "--out", folder / "out"


@pytest.fixture
def scene(tmp_path):
    """Ground truth of two images with Edema in one; the prediction is half of it, and has a third image."""
    edema = np.zeros((20, 30), bool)
    edema[:10, :20] = True
    half = edema & (np.arange(30) < 10)
    write_segmentations(tmp_path / "gt.json", {"a": {"Edema": edema}, "b": {"Edema": edema & False}})
    write_segmentations(tmp_path / "pred.json", {"a": {"Edema": half}, "c": {"Edema": half}})
    return tmp_path


def test_files_and_printed_table(scene, monkeypatch, capsys):
    maps = {"a_Edema|map": np.eye(2), "b_Edema|map": np.eye(2)}
    np.savez(scene / "maps.npz", **maps)
    out = scene / "out"
    run(monkeypatch, *flags(scene), "--maps", scene / "maps.npz")
    printed = capsys.readouterr().out
    lines = {line[:26].strip(): line[26:].split() for line in printed.splitlines()}
    assert lines["Edema"] == ["1", "0.500", "[0.500,", "0.500]", "0.500", "0.248", "1.000"]
    assert lines["Pneumothorax"] == ["0", "absent", "-", "-", "-"]
    assert lines["mean of the 1 present"][:2] == ["2", "0.500"]
    assert f"1 image (b) not in {scene / 'pred.json'}: counted as empty" in printed
    assert f"1 image (c) not in {scene / 'gt.json'}: counted in iou_truepos_False only" in printed
    with (out / "pooled_iou.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*CHEXPERT.tasks, "mIoU"]
    assert rows["Edema"] == {
        "name": "Edema",
        "iou": "0.5",
        "lower": "0.5",
        "upper": "0.5",
        "positive_images": "1",
    }
    assert rows["Pneumothorax"]["iou"] == ""
    assert rows["mIoU"]["iou"] == "0.5"
    assert (out / "iou_results_per_cxr.csv").read_text().splitlines()[1:] == [",,,,0.5,,,,,,a", ",,,,,,,,,,b"]
    every = (out / "iou_truepos_False/iou_results_per_cxr.csv").read_text().splitlines()[1:]
    assert every == [",,,,0.5,,,,,,a", ",,,,,,,,,,b", ",,,,0.0,,,,,,c"]
    assert (out / "hitmiss_results_per_cxr.csv").read_text().splitlines()[1] == ",,,,1.0,,,,,,a"


def test_unlisted_tasks_and_missing_maps_are_noted(scene, monkeypatch, capsys):
    content = json.loads((scene / "pred.json").read_text())
    del content["a"]["Pneumothorax"]
    (scene / "pred.json").write_text(json.dumps(content))
    np.savez(scene / "maps.npz", **{"a_Edema|map": np.eye(2)})
    run(monkeypatch, *flags(scene), "--maps", scene / "maps.npz")
    printed = capsys.readouterr().out
    assert "1 image (a) in" in printed
    assert "without masks of all 10 tasks: the rest is empty" in printed
    assert "1 image (b) without a saliency map" in printed


def test_a_task_set_beside_the_ground_truth(tmp_path, monkeypatch, capsys):
    (tmp_path / "tasks.toml").write_text(
        'labels = ["Nodule", "Fracture"]\ntasks = ["Nodule", "Fracture"]\nmissing = "unknown"\n'
    )
    tasks = read_taxonomy(tmp_path)
    mask = np.zeros((20, 30), bool)
    mask[:10, :20] = True
    half = mask & (np.arange(30) < 10)
    truth = {"a": {"Nodule": mask}, "b": {"Nodule": mask & False, "Fracture": mask}}
    write_segmentations(tmp_path / "gt.json", truth, tasks)
    prediction = {image_id: {"Nodule": half, "Fracture": mask} for image_id in "abc"}
    write_segmentations(tmp_path / "pred.json", prediction, tasks)
    run(monkeypatch, *flags(tmp_path))
    printed = capsys.readouterr().out
    lines = {line[:21].strip(): line[21:].split() for line in printed.splitlines()}
    assert printed.startswith(f"tasks of {tmp_path / 'tasks.toml'}: Nodule, Fracture\n")
    assert lines["Nodule"][:2] == ["1", "0.333"]  # image b has a false positive of the size of image a's hit
    assert lines["Fracture"][:2] == ["1", "1.000"]
    assert f"1 of 4 image-task pairs not in {tmp_path / 'gt.json'}: unknown, left out" in printed
    assert f"1 image (c) not in {tmp_path / 'gt.json'}: left out" in printed
    every = (tmp_path / "out/iou_truepos_False/iou_results_per_cxr.csv").read_text().splitlines()
    assert every == ["Nodule,Fracture,img_id", "0.5,,a", "0.0,1.0,b", ",,c"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--pred", "none.json"], "none.json: cannot be read"),
        (["--out", __file__], f"--out {__file__}: cannot be written"),
        (["--seed", "-1"], "--seed -1 must be in"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--metric", "iou"], "unrecognized arguments: --metric iou"),
    ],
)
def test_an_error_is_one_line_with_exit_code_2(scene, monkeypatch, capsys, change, complaint):
    monkeypatch.setattr(sys, "argv", ["evaluation", *map(str, flags(scene)), *change])
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {complaint}")


def test_unusable_maps_leave_no_scores_of_half_a_call(scene, monkeypatch):
    with pytest.raises(InputError, match=r"none\.npz: not an npz"):
        run(monkeypatch, *flags(scene), "--maps", scene / "none.npz")
    assert not (scene / "out").exists()


def test_the_command_has_help():
    done = subprocess.run(
        [sys.executable, "-m", "chexseg_jax.evaluation", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    for word in ("--gt", "--pred", "--out", "--maps", "pooled_iou.csv", "iou_summary_results.csv"):
        assert word in done.stdout


@pytest.mark.real_data
def test_the_published_sample_to_the_last_digit(shared, golden, tmp_path, monkeypatch, capsys):
    sample, out = shared / "chexlocalize_sample", tmp_path / "out"
    run(
        monkeypatch,
        *("--gt", sample / "gt_segmentations_val.json"),
        *("--pred", sample / "gradcam_segmentations_val_sample.json"),
        *("--maps", sample / "gradcam_maps_val.npz", "--out", out),
    )
    names = [
        path.relative_to(golden / "chexlocalize/sample")
        for path in (golden / "chexlocalize/sample").rglob("*.csv")
    ]
    assert len(names) == 6
    for name in names:
        assert (out / name).read_bytes() == (golden / "chexlocalize/sample" / name).read_bytes(), name
