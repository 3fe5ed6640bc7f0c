import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from chexseg_jax.data.chexlocalize import write_segmentations
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.errors import run_command
from chexseg_jax.evaluation.__main__ import main


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluation", *map(str, arguments)])
    main()


def flags(folder):
    return "--gt", folder / "gt.json", "--pred", folder / "pred.json", "--out", folder / "out"


@pytest.fixture
def scene(tmp_path):
    """Ground truth of two images with Edema in one; the prediction is half of it, and knows a third image."""
    edema = np.zeros((20, 30), bool)
    edema[:10, :20] = True
    half = edema & (np.arange(30) < 10)
    write_segmentations(tmp_path / "gt.json", {"a": {"Edema": edema}, "b": {"Edema": edema & False}})
    write_segmentations(tmp_path / "pred.json", {"a": {"Edema": half}, "c": {"Edema": half}})
    return tmp_path


def test_what_is_written_and_printed(scene, monkeypatch, capsys):
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
    assert list(rows) == [*TASKS, "mIoU"]
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


def test_pathologies_and_maps_that_are_not_listed_are_told(scene, monkeypatch, capsys):
    content = json.loads((scene / "pred.json").read_text())
    del content["a"]["Pneumothorax"]
    (scene / "pred.json").write_text(json.dumps(content))
    np.savez(scene / "maps.npz", **{"a_Edema|map": np.eye(2)})
    run(monkeypatch, *flags(scene), "--maps", scene / "maps.npz")
    printed = capsys.readouterr().out
    assert "1 image (a) in" in printed
    assert "do not list all ten pathologies" in printed
    assert "1 image (b) without a saliency map" in printed


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--pred", "none.json"], "none.json: cannot be read"),
        (["--out", __file__], f"--out {__file__}: cannot be written"),
        (["--seed", "-1"], "--seed -1 is not in"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["--metric", "iou"], "unrecognized arguments: --metric iou"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(scene, monkeypatch, capsys, change, complaint):
    monkeypatch.setattr(sys, "argv", ["evaluation", *map(str, flags(scene)), *change])
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"error: {complaint}")


def test_the_module_is_a_command_with_help():
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
