"""The command `chexseg`."""

import subprocess
import sys

import pytest

import chexseg_jax
from chexseg_jax.__main__ import COMMANDS, command_of, main
from chexseg_jax.config_args import CONFIGS, find_config, with_files


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["chexseg", *arguments])
    main()


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_every_command(arguments, monkeypatch, capsys):
    call(monkeypatch, *arguments)
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == [*COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_shows_its_name(name, monkeypatch, capsys):
    assert callable(command_of(name))
    with pytest.raises(SystemExit) if name != "run" else pytest.MonkeyPatch.context():
        call(monkeypatch, name, "--help")
    assert f"chexseg {name}" in capsys.readouterr().out


def test_an_unknown_command_names_the_closest(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, "evalute", "--gt", "x")
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: evalute: no such command; did you mean chexseg evaluate? chexseg --help lists all\n"
    )


def test_help_and_version_import_no_jax():
    code = "import sys; from chexseg_jax.__main__ import main; main(); print('jax' in sys.modules)"
    for flag in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("False\n")
    assert done.stdout.startswith(f"chexseg-jax {chexseg_jax.__version__}, jax ")


@pytest.mark.parametrize("name", ["semi", "semi.py", "configs/semi", "configs/semi.py"])
def test_a_config_is_the_users_file_or_the_packages(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == str(CONFIGS / "semi.py")
    for place in ("configs/semi.py", "semi.py"):  # the nearer one wins
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
        if not (name.startswith("configs/") and place == "semi.py"):
            assert find_config(name) == place


@pytest.mark.parametrize("name", ["base", "none", "configs/none.py", "elsewhere/semi.py", "/etc/semi", ""])
def test_any_other_name_stays(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == name


@pytest.mark.parametrize(
    "arguments",
    [["semi:p=1"], ["--config=semi:p=1"], ["--config", "configs/semi.py:p=1"], ["-config=semi.py:p=1"]],
)
def test_every_form_of_the_flag_names_the_file(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, *rest = with_files([*arguments, "--workdir", "semi"])
    assert given.lstrip("-") == f"config={CONFIGS / 'semi.py'}:p=1"
    assert rest == ["--workdir", "semi"]


def test_flags_before_the_config_stay():
    assert with_files(["--workdir", "x"]) == ["--workdir", "x"]
    assert with_files(["--workdir", "x", "--config"]) == ["--workdir", "x", "--config="]


def test_run_alone_lists_the_configs_with_their_first_line(monkeypatch, capsys):
    call(monkeypatch, "run")
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()[1:]] == sorted(
        path.stem for path in CONFIGS.glob("*.py") if "def get_config" in path.read_text()
    )
    assert "  semi              Semi-supervised segmentation: expert masks" in listed


def test_a_users_config_builds_on_the_packages(tmp_path):
    """From an empty folder, in a fresh process: a file of the user's, its arguments, and its plan."""
    (tmp_path / "mine.py").write_text(
        '"""Mine: five minutes."""\n'
        "from chexseg_jax.configs import base, semi\n\n"
        "def get_config(arg=None):\n"
        "    config = semi.get_config(arg)\n"
        "    config.segmentation.steps = 7\n"
        "    return config\n"
    )
    code = "from chexseg_jax.__main__ import main; main()"
    command = [sys.executable, "-c", code, "run", "mine:smoke", "--dry_run", "--config.data.size=32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "steps=7" in done.stdout
    assert "32 px" in done.stdout
    assert "Mine: five minutes." in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".py"] == ["mine.py"]
    assert not (tmp_path / "work").exists()
