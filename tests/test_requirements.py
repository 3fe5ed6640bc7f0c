"""What pyproject.toml requires of JAX and cuDNN."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def requirements(extra=None):
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {one.name: one for one in map(Requirement, lines)}


def test_jax_starts_after_the_version_that_inflates_dilated_kernels():
    for extra in (None, "cuda", "cuda12", "gpu-check"):
        assert [v for v in ("0.8.0", "0.8.1", "0.12.0") if v in requirements(extra)["jax"].specifier] == [
            *("0.8.1", "0.12.0")
        ]


def test_cuda12_holds_the_last_cudnn_for_pascal_and_volta():
    assert requirements("cuda12")["jax"].extras == {"cuda12"}
    cudnn = requirements("cuda12")["nvidia-cudnn-cu12"].specifier
    assert [v for v in ("9.10.2.21", "9.11.0.98") if v in cudnn] == ["9.10.2.21"]
