import csv
import sys

import pytest

from chexseg_jax.errors import InputError, run_command
from chexseg_jax.phantom import MARKER
from chexseg_jax.phantom.__main__ import main, split_patients


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["phantom", *map(str, arguments)])
    run_command(main)


def test_the_command_writes_a_tree(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--out", tmp_path / "tree", "--patients", 8, "--seed", 4, "--size", 64, "--processes", 1)
    assert (tmp_path / "tree" / MARKER).exists()
    with (tmp_path / "tree" / "train.csv").open() as file:
        assert len(list(csv.DictReader(file))) == split_patients(8)["train"]
    assert "phantom with" in capsys.readouterr().out


def test_an_error_is_one_line_with_exit_code_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "--out", tmp_path, "--patients", 8)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_patients_are_split():
    images = split_patients(400)
    assert images["train"] > images["valid"] > images["test"] >= 80
    with pytest.raises(InputError, match="at least 3"):
        split_patients(2)
