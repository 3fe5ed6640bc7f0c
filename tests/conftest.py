"""Shared by every test: two CPU devices, real samples where they are, golden numbers, no stray downloads."""

import atexit
import contextlib
import errno
import gc
import os
import shutil
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

# Most of the suite's time is compilation. So LLVM optimises nothing and compiles each program in one piece, XLA's older
# emitters generate the code of fusions (a third faster; later versions have removed the flag), and workers and launched
# programs share a compilation cache.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
    )
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="chexseg-xla-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# A second thread would mostly wait, at full speed, on a core that another worker needs.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop("CHEXPERT_ROOT", None)  # whoever has it set means it for trainings

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

gc.disable()  # each collection walks everything that JAX has traced: `few_collections`

# Two shared cores: how long an example takes says nothing about the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"


#: Files that share a slow session fixture; one worker runs them all.
TOGETHER = {
    "the tiny run": (
        "test_experiment.py",
        "test_sweep.py",
        "test_scores.py",
        "test_notebooks.py",
        "test_dry_run.py",
        "test_predict.py",
    ),
    "the phantom": ("tests/phantom/",),
}


def worker_group(nodeid: str) -> str:
    """The unit of scheduling that a test belongs to: its file, or a group of `TOGETHER`."""
    file = nodeid.partition("::")[0]
    return next((name for name, parts in TOGETHER.items() if any(part in file for part in parts)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out whole groups, in collection order."""

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return worker_group(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    """Start the longest groups first, so that the workers finish together.

    Tests on the real radiographs are skipped, with the reason, where ../shared is not beside the checkout.
    """
    longest = ("the tiny run", "tests/test_topologies.py", "the phantom", "tests/models/test_parity.py")
    ranks = {group: rank for rank, group in enumerate(longest)}
    items.sort(key=lambda item: ranks.get(worker_group(item.nodeid), len(ranks)))
    if SHARED.is_dir():
        return
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(pytest.mark.skip(reason=f"no real radiographs: {SHARED} is not there"))


@pytest.fixture(scope="module", autouse=True)
def few_collections():
    """Collect garbage once per file."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def remembered():
    """Remember two pure functions that are slow for what tests do: about a tenth of the suite's time.

    Grain shuffles below 65,536 rows by trial: of 32 rows, an index takes a millisecond. And whatever imports or
    restores a network traces the whole of it for the shapes of its variables.
    """
    import jax
    from flax import linen as nn

    with contextlib.suppress(
        ImportError, AttributeError
    ):  # where a newer Grain keeps it elsewhere, it stays slow
        from grain._src.python.dataset.transformations import shuffle

        shuffle.index_shuffle = SimpleNamespace(index_shuffle=cache(shuffle.index_shuffle.index_shuffle))
    eval_shape, shapes = jax.eval_shape, {}

    def remembering(function, *arguments, **more):
        module = getattr(function, "__self__", None)
        if not isinstance(module, nn.Module) or function.__name__ != "init":
            return eval_shape(function, *arguments, **more)
        key = module, str(jax.tree.map(jax.typeof, (arguments, more)))
        if key not in shapes:
            shapes[key] = eval_shape(function, *arguments, **more)
        return jax.tree.map(lambda leaf: leaf, shapes[key])  # other dictionaries, which callers may change

    jax.eval_shape = remembering


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are empty files: where nothing looks at them, drawing takes most of a report's time."""
    from chexseg_jax.report import figures

    monkeypatch.setattr(figures, "save", lambda _, path, **more: path.touch())


@pytest.fixture
def without_links(monkeypatch):
    """A file system that has neither symbolic nor hard links, such as exFAT."""

    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)


@pytest.fixture
def command_line(monkeypatch):
    """Parse a command line's arguments as launch.py does, with its flags defined anew; return the configuration."""
    from absl import flags
    from ml_collections import config_flags

    from chexseg_jax.config_args import parse_flags

    def parse(*arguments: str):
        argv, values = ["launch.py", *arguments], flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        monkeypatch.setattr(flags, "FLAGS", values)
        assert parse_flags(argv) == ["launch.py"]
        return values.config

    return parse


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def tiny_config():
    """`configs/semi.py:p=0.9` with everything small: what is tested on it is not how well it segments."""
    from tiny import Tiny

    from chexseg_jax.models.zoo import ENCODERS
    from configs import semi

    ENCODERS["tiny"] = Tiny

    config = semi.get_config("p=0.9,count=6")
    config.phantom.update(train=16, valid=16, test=6, size=64)
    config.data.size = 32
    small = {"model": "tiny", "batch_size": 4, "epochs": 1.0, "checkpoint_every": 2}
    with config.unlocked():
        config.classifier.options = config.encoder.options
    config.classifier.update(small)
    config.encoder.update(small)
    config.segmentation.update(steps=4, batch_size=4, checkpoint_every=2)
    config.scores.bootstrap = 50
    return config


@pytest.fixture(scope="session")
def tiny_run(tiny_config, tmp_path_factory):
    """(work directory, run folder) of the whole chain on `tiny_config`."""
    from chexseg_jax import experiment

    workdir = tmp_path_factory.mktemp("work")
    return workdir, experiment.run(tiny_config, workdir)


@pytest.fixture(scope="session")
def small_download(tmp_path_factory) -> Path:
    """A download's tree (of phantom images); copy it before you damage it."""
    from chexseg_jax import phantom

    root = tmp_path_factory.mktemp("download") / "cxr"
    phantom.make(root, train=6, valid=8, test=4, size=64, seed=5)
    return root


@pytest.fixture
def download(small_download, tmp_path) -> Path:
    """A copy of `small_download` for one test."""
    return Path(shutil.copytree(small_download, tmp_path / "cxr"))
