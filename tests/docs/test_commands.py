"""The commands of the README and the pages: the programs take them, and they run, small, in the order of a page."""

import os
import re
import shlex
from itertools import dropwhile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import he_weights, save_random

from chexseg_jax import models
from chexseg_jax.__main__ import COMMANDS, command_of
from chexseg_jax.config_args import with_files
from chexseg_jax.data.chexlocalize import encode, write_segmentations
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.dry_run import describe
from chexseg_jax.errors import InputError, Parser
from chexseg_jax.models.normalisation import IMAGENET
from chexseg_jax.saved_model import save_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = {target.partition(":")[0].removesuffix(".__main__"): name for name, (target, _) in COMMANDS.items()}
#: Pages, and first words of commands, that do not run here: where they do, or why nowhere.
APART = {
    "your-data.md": "tests/docs/test_your_data_page.py",
    "pip": ".ci/run",
    "pytest": ".ci/run",
    "ruff": ".ci/run",
    "mypy": ".ci/run",
    "sphinx-build": ".ci/run",
    "chexseg run NAME:": "a synopsis",
    "chexseg saliency": "tests/saliency/test_saliency_command.py",
    "chexseg package": "tests/package/test_package.py; ONNX needs PyTorch: tests/package/test_onnx.py",
    "chexseg weights epoch=2.ckpt": "needs PyTorch; tests/models/torch_weights runs it on other files",
    "chexseg weights model.pth.tar": "needs PyTorch; tests/models/torch_weights runs it on other files",
    "python benchmarks/trace_summary.py": "tests/benchmarks/test_trace_summary.py",
    "benchmarks/on_gpu.sh": "needs a GPU; tests/benchmarks/test_on_gpu.py runs a piece on a CPU",
    "python benchmarks/gpu_readiness.py": "needs the extra gpu-check; tests/benchmarks/test_gpu_readiness.py",
    "python tests/faults/kill.py": "hours; its short form is tests/faults/test_kill.py",
    "python tests/faults/kill_predict.py": "minutes; its short form is tests/faults/test_kill_predict.py",
    "python tests/faults/fuzz.py": "minutes; its short form is tests/faults/test_fuzz.py",
    "python tests/faults/flip.py": "minutes of damage to a run's files; by hand",
    "python tests/faults/soak.py": "half an hour; by hand",
}
#: CheXpert and CheXlocalize, which cannot be shipped: a run on them is refused up front.
NOT_SHIPPED = "/data/cxr"


def commands_of(page):
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = dropwhile(lambda word: re.match("[A-Z_]+=", word), shlex.split(part, comments=True))
                if words := [*words]:  # without variables of the environment
                    yield as_chexseg(words)


def as_chexseg(words):
    """The same command as `chexseg NAME ...`, if it is one."""
    if words[:2] == ["python", "launch.py"]:
        return ["chexseg", "run", *words[2:]]
    if words[:2] == ["python", "-m"]:
        return ["chexseg", MODULES[words[2].removeprefix("chexseg_jax.")], *words[3:]]
    return words


def apart(page, words):
    return page.name if page.name in APART else next(filter(" ".join(words).startswith, APART), None)


ALL = [(page, words) for page in PAGES for words in commands_of(page)]


class Parsed(Exception):
    """The arguments were accepted."""


@pytest.mark.parametrize(
    ("page", "words"), ALL, ids=[f"{page.name}: {shlex.join(words)}" for page, words in ALL]
)
def test_a_command_of_the_pages_is_accepted(page, words, monkeypatch):
    if words[0] != "chexseg":
        assert apart(page, words)
        assert words[0] != "python" or (ROOT / words[1]).is_file()
        assert not words[0].endswith(".sh") or os.access(ROOT / words[0], os.X_OK)
    elif words[1] != "run":  # which the next test plans
        parse = Parser.parse_args

        def parse_only(self, arguments):
            parse(self, arguments)
            raise Parsed

        monkeypatch.setattr(Parser, "parse_args", parse_only)
        with pytest.raises(Parsed):
            command_of(words[1])(words[2:])


def test_commands_apart_are_on_a_page_and_their_tests_exist():
    assert {*APART} == {apart(page, words) for page, words in ALL} - {None}
    assert all(
        (ROOT / name).exists() for text in APART.values() for name in re.findall(r"tests/[\w/.]+\b", text)
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the pages' commands name: a run, radiographs, a classifier, masks, a configuration of one's own."""
    place = tmp_path_factory.mktemp("pages")
    (place / "work/runs/RUN").mkdir(parents=True)
    save_random(place / "work/runs/RUN/model", CHEXPERT, size=32)
    (place / "work/runs/RESNET18").mkdir()
    resnet = models.create("resnet18", num_classes=2)
    card = {"name": "resnet18", "num_classes": 2, "options": {}, "size": 32, "normalisation": IMAGENET}
    save_model(place / "work/runs/RESNET18", he_weights(resnet), **card, tasks=("Edema", "Cardiomegaly"))
    (place / "chexnet").mkdir()
    (place / "chexnet/model.json").write_text('{"name": "densenet121"}')
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32), dtype=np.uint8)
    for folder in ("images", "radiographs"):
        (place / folder).mkdir()
        Image.fromarray(pixels).save(place / folder / f"{folder}.png")
    for file in ("more.png", "image.png"):
        Image.fromarray(pixels).save(place / file)
    (place / "list.csv").write_text("Path\nimage.png\n")
    masks = {task: encode(np.eye(40, 32, dtype=bool)) for task in CHEXPERT.tasks}
    write_segmentations(place / "gt_segmentations_test.json", [("image", masks)], CHEXPERT)
    mine = re.search(r"```python\n(.*?)```", (ROOT / "docs/install.md").read_text(), re.DOTALL)[1]
    (place / "mine.py").write_text(mine)
    return place


RUN_HERE = sorted({page for page, words in ALL if not apart(page, words)})


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page, files, command_line, monkeypatch):
    """A training is planned only: tests/test_experiment.py makes a tiny run, tests/wheel.sh PYTHON a smoke run."""
    monkeypatch.chdir(files)
    for words in commands_of(page):
        if apart(page, words):
            continue
        if words[1] == "run":
            plan(words[2:], command_line)
            continue
        if words[1] == "weights":  # the tiny encoder has no PyTorch form
            words = [word.replace("RUN", "RESNET18") for word in words]
        if "--patients" in words:
            words[words.index("--patients") + 1] = "3"
            words += ["--size", "64", "--processes", "1"]
        command_of(words[1])(["image.png" if word == "IMAGE..." else word for word in words[2:]])


@pytest.mark.parametrize("page", ["models.md", "trust.md"])
def test_the_first_program_of_a_page_runs(page, files, monkeypatch):
    monkeypatch.chdir(files)
    program = re.search(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)[1]
    exec(program, {})


def plan(words, command_line):
    """`chexseg run ... --dry_run`; the list of configurations, and of the arguments of one."""
    words = with_files([word for word in words if word != "--dry_run"])
    if not words:
        command_of("run")([])
        return
    if words[0].endswith(":help"):
        with pytest.raises(SystemExit) as end:
            command_line(*words)
        assert end.value.code == 0
        return
    config = command_line(*words)
    if config.root == NOT_SHIPPED:
        with pytest.raises(InputError, match="no such folder; it should hold CheXpert"):
            describe(config, Path("work"), words[0])
    else:
        assert "\nTo do: " in describe(config, Path("work"), words[0].removeprefix("--config="))
