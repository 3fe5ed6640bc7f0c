"""The command as a user types it.

This file is also a program that runs launch.py many times: for each line of its input, a JSON list of arguments, it
runs the command in a fork, where everything is already imported, and prints one line of JSON.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """A function that runs the command with the given arguments and returns its returncode, stdout and stderr."""
    program = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path_factory.mktemp("output"))],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def launch(*arguments: str) -> SimpleNamespace:
        program.stdin.write(json.dumps(arguments) + "\n")
        program.stdin.flush()
        return SimpleNamespace(**json.loads(program.stdout.readline()))

    yield launch
    program.stdin.close()
    assert program.wait(60) == 0


def serve(folder: Path) -> None:
    """Run the command for each line of arguments until the input ends; the streams of a run go to `folder`."""
    from chexseg_jax import experiment, sweep  # noqa: F401  (imported once, for all forks)

    for line in sys.stdin:
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            texts = {name: (folder / name).read_text() for name in ("stdout", "stderr")}
            print(json.dumps({"returncode": os.waitstatus_to_exitcode(status), **texts}), flush=True)
            continue
        signal.alarm(120)  # ends a fork that hangs, and so fails its test
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
        sys.argv = ["launch.py", *json.loads(line)]
        code = 1
        try:
            runpy.run_path("launch.py", run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # without Python's own end, which takes longer than the rest


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=configs/semi.py:p=1.5"], "p=1.5 is outside [0, 1]"),
        (
            ["--config=configs/semi.py:q=1"],
            "unknown config argument 'q'; the known ones, with their defaults: seed=0",
        ),
        (["--config=configs/semi.py:p=0.9", "--config.segmentation.step=3"], "did you mean --config.seg"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=configs/semi.py", f"--workdir={__file__}"], "is a file; give a folder"),
        (
            ["--config=configs/semi.py", "p=0.5,root=/data"],
            "'p=0.5,root=/data' is not a flag; arguments go after",
        ),
        (["--config=configs/semi.py", "--workdir=/proc/nope"], "--workdir=/proc/nope: "),
        (["--config=configs/semi.py", "--config.scale=paper"], "after the colon, configs/semi.py:scale="),
        (
            ["--config=configs/moco.py:weights=x.pth"],
            "weights=x.pth applies only to what starts from ImageNet",
        ),
        (
            ["--config=configs/semi.py", "--config.recipe=plus"],
            "--config.recipe: no such setting; arguments, such",
        ),
        (
            ["--config=configs/semi.py", "--config.classifier.options.foo=3"],
            "--config.classifier.options.foo: no such",
        ),
        (["--config=configs/table1.py:smoke,scale=paper"], "give smoke or scale=paper, not both"),
        (
            ["--config=configs/moco.py", "--config.profile.steps=15:10"],
            "profile.steps='15:10' must be FIRST:LAST",
        ),
        (["--config=configs/full.py", "--workdirectory=x"], "workdirectory"),
        ([], "--config"),
        (["--config=configs/semi.py:root=/nowhere/cxr"], "/nowhere/cxr"),
        (["--config=configs/full.py", "--processes=2"], "--process=I go together"),
        (
            ["--config=configs/full.py", "--coordinator=localhost:1234", "--processes=2", "--process=2"],
            "--process=2 is not one of 2",
        ),
        (
            ["--config=configs/full.py", "--coordinator=localhost", "--processes=2", "--process=1"],
            "--coordinator=localhost has no port",
        ),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(arguments, told, launch, tmp_path):
    if not any("workdir" in argument for argument in arguments):
        arguments = [*arguments, f"--workdir={tmp_path / 'work'}"]
    done = launch(*arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert told in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("work/runs/*"))


def test_xla_has_the_flag_of_determinism_before_it_starts(tmp_path):
    """`--dry_run` starts the devices, where XLA ends the process for a flag that it does not know."""
    program = (
        "import sys, jax; from chexseg_jax import run; from chexseg_jax.errors import run_command\n"
        "from jax.extend.backend import get_compile_options\n"
        "start = run.processes.start\n"
        "def started(*arguments):\n"
        "    start(*arguments)\n"
        "    print(get_compile_options(1, 1).SerializeAsString().hex())\n"
        "run.processes.start = started\n"
        "run_command(run.main)"
    )
    options = {}
    for value in (False, True):
        arguments = ["--config=semi:smoke", f"--config.deterministic={value}", "--dry_run"]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments, f"--workdir={tmp_path}"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        options[value], *plan = done.stdout.splitlines()
        assert len(plan) > 10
    assert options[True] != options[False]


def test_the_command_by_itself():
    done = subprocess.run(
        [sys.executable, ROOT / "launch.py", "--help"], capture_output=True, text=True, check=False
    )
    assert "--workdir" in done.stdout
    assert "Run one configuration" in done.stdout


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
