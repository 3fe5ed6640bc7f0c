"""Weight files that are none, or hold other than plain floats: one line each."""

import json
import os
import re
from contextlib import suppress

import numpy as np
import pytest

from chexseg_jax.errors import InputError
from chexseg_jax.models.torch_weights.files import ENDINGS, PICKLED, read

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 46830571\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("content", "words"),
    [(POINTER, "a Git LFS pointer, .* run git lfs pull"), (PAGE, "a web page, not the weights")],
)
def test_a_file_that_lies_where_the_weights_should_is_named(ending, content, words, tmp_path):
    file = tmp_path / f"weights{ending}"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{re.escape(str(file))}: {words}"):
        read(file)


def test_torchxrayvisions_operating_points_are_dropped(tmp_path):
    np.savez(tmp_path / "in.npz", **{"features.conv0.weight": np.ones(1), "op_threshs": np.full(18, np.nan)})
    file = read(tmp_path / "in.npz")
    assert (file.state.keys(), file.dropped) == ({"features.conv0.weight"}, ("op_threshs",))


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ("{", r"truncated or corrupt \(.*\); copy it again"),
        (POINTER.decode(), "a Git LFS pointer"),
        ("[]", "must hold a JSON object"),
        ({"size": "320"}, "size must be of type int, not '320'"),
        ({"size": -1}, "size or num_classes is out of range"),
        ({"tasks": "Edema"}, "tasks must be of type list"),
        ({"normalisation": {"mean": [0.5]}}, "normalisation .* must be one mean or three"),
        ({"normalisation": {"mean": [0.5], "std": [0]}}, "normalisation .* standard deviations above 0"),
    ],
)
def test_settings_that_cannot_be_read_are_named(card, problem, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.ones(1))
    (tmp_path / "in.npz.json").write_text(card if isinstance(card, str) else json.dumps(card))
    with pytest.raises(InputError, match=f"{tmp_path}/in.npz.json: {problem}"):
        read(tmp_path / "in.npz")


def odd(torch, kind):
    x = torch.ones(3, 3)
    return {
        "quantised": lambda: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        "sparse": x.to_sparse,
        "compressed": x.to_sparse_csr,
        "meta": lambda: x.to("meta"),
        "nested": lambda: torch.nested.nested_tensor([x, x]),
    }[kind]()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("quantised", "quantised"),
        ("sparse", "sparse"),
        ("compressed", "SparseCsr"),
        ("meta", "on the meta device"),
        ("nested", "Nested"),
    ],
)
def test_tensors_without_plain_floats_are_named(kind, words, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"conv1.weight": odd(torch, kind)}, tmp_path / "in.pth")
    with pytest.raises(
        InputError, match=rf"in.pth: conv1.weight is no plain tensor \(.*{words}.*dense floats"
    ):
        read(tmp_path / "in.pth")


@pytest.mark.filterwarnings("ignore")
def test_packed_parameters_and_programs_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    quantised = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear})
    torch.save(quantised.state_dict(), tmp_path / "in.pth")
    with pytest.raises(InputError, match=r"0._packed_params.* is no plain tensor \(quantised\)"):
        read(tmp_path / "in.pth")
    torch.jit.script(network).save(tmp_path / "program.pt")
    with pytest.raises(InputError, match=r"program.pt: a TorchScript program; save the model's state_dict"):
        read(tmp_path / "program.pt")


def write(file, legacy=False):
    if file.suffix in PICKLED:
        torch = pytest.importorskip("torch")
        state = {"conv1.weight": torch.ones(2, 3), "bn1.num_batches_tracked": torch.tensor(1)}
        torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    else:
        from safetensors.numpy import save_file

        state = {"conv1.weight": np.ones((2, 3), np.float32), "bn1.bias": np.ones(3, np.float16)}
        save_file(state, file) if file.suffix == ".safetensors" else np.savez(file, **state)
    return file.read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("ending", "legacy"), [(".npz", False), (".safetensors", False), (".pth", False), (".tar", True)]
)
def test_a_damaged_file_is_a_value_or_one_line(ending, legacy, tmp_path):
    """`FUZZ=1000` damages each file that many times."""
    file = tmp_path / f"in{ending}"
    whole = write(file, legacy)
    random = np.random.default_rng(0)
    for _ in range(int(os.environ.get("FUZZ", 60))):
        damaged = bytearray(whole)
        if random.random() < 0.2:
            del damaged[random.integers(len(damaged)) :]
        for _ in range(random.integers(1, 4)):
            if damaged:
                damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        file.write_bytes(damaged)
        with suppress(InputError):
            read(file)
