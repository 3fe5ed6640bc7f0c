import logging
import sys
import types

import numpy as np
import pytest
from golden.peers import peer
from safetensors.numpy import save_file

import chexseg_jax
from chexseg_jax.errors import InputError, MissingWeightsError
from chexseg_jax.models.normalisation import IMAGENET
from chexseg_jax.stages import imagenet


@pytest.fixture(autouse=True)
def nothing_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    imagenet._on_hub.cache_clear()


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(peer("resnet18").state, folder / "resnet18-f37072fd.safetensors")
    return folder


def imported(part, weights, model="resnet18"):
    part.mkdir()
    imagenet.import_imagenet(
        part, model=model, weights=imagenet.find_weights(str(weights), model), stride_on="conv2", size=64
    )
    return chexseg_jax.restore(part)


def test_a_file_becomes_a_model_that_restore_opens(weights, tmp_path):
    model = imported(tmp_path / "model", weights)
    assert model.variables["params"]["conv1"]["kernel"].shape == (7, 7, 3, 64)
    assert model.normalisation == IMAGENET
    file = next(weights.iterdir())
    found = (imagenet.find_weights(str(path), "resnet18").fingerprint for path in (weights, file))
    assert len(set(found)) == 1  # the content names the artifact, not the path


def test_the_networks_name_their_heads_differently(tmp_path):
    """The saliency classifier's ImageNet weights; its head is `classifier`, a ResNet's is `fc`."""
    file = tmp_path / "densenet121-a639ec97.safetensors"
    save_file(peer("densenet121").state, file)
    model = imported(tmp_path / "model", file, "densenet121")
    assert (model.config.name, model.config.num_classes, dict(model.config.options)) == (
        "densenet121",
        14,
        {},
    )
    np.testing.assert_array_equal(
        model.variables["params"]["classifier"]["bias"], peer("densenet121").state["classifier.bias"]
    )


@pytest.mark.parametrize(
    ("variable", "cache"),
    [
        ("TORCH_HOME", "hub/checkpoints"),
        ("XDG_CACHE_HOME", "torch/hub/checkpoints"),
        ("HOME", ".cache/torch/hub/checkpoints"),
    ],
)
def test_torchvisions_cache_is_where_torch_has_it(variable, cache, weights, tmp_path, monkeypatch):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    (tmp_path / "here" / cache).parent.mkdir(parents=True)
    weights.rename(tmp_path / "here" / cache)
    found = imagenet.find_weights("", "resnet18").path
    assert found == tmp_path / "here" / cache / "resnet18-f37072fd.safetensors"


def test_without_a_home_directory_the_weights_are_absent(monkeypatch):
    """As in a container that runs under a user id without a name."""

    def nobody(uid):
        raise KeyError(uid)

    for name in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(
        MissingWeightsError, match=r"into ~/.cache/torch/hub/checkpoints, or give weights=FILE"
    ):
        imagenet.find_weights("", "resnet18")
    with pytest.raises(InputError, match=r"weights=~/none: no such file or folder"):
        imagenet.find_weights("~/none", "resnet18")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "no ImageNet weights of a resnet50"),
        ("{}/none", "no such file or folder"),
        ("{}", "no file in it"),
    ],
)
def test_without_weights_one_line_says_what_to_download_and_where_to_put_it(given, reason, weights):
    with pytest.raises(InputError) as told:
        imagenet.find_weights(given.format(weights), "resnet50")
    assert isinstance(told.value, MissingWeightsError) == ("none" not in given)  # a wrong path is the user's
    for part in (
        reason,
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        "torch/hub/checkpoints",
    ):
        assert part in str(told.value)


def test_one_file_for_two_networks_is_refused_before_the_first_is_trained(weights):
    (file,) = weights.iterdir()
    two, one = {"densenet121": "", "resnet18": ""}, {"resnet18": ""}
    with pytest.raises(
        InputError, match=r"densenet121 and resnet18 start from ImageNet; give weights=FOLDER"
    ):
        imagenet.require_weights(str(file), [two])
    imagenet.require_weights(str(file), [two, one])  # of a table, the second run is possible
    imagenet.require_weights(str(file), [one, {}])


def test_weights_of_another_network_are_named(weights, tmp_path):
    file = next(weights.iterdir())
    with pytest.raises(InputError, match=f"{file}: .* is not a resnet50's: .*; .* weights=FOLDER"):
        imported(tmp_path / "model", file, "resnet50")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"), (None, "bn1.bias holds NaN")],
)
def test_weights_that_are_none_are_named(content, problem, weights, tmp_path):
    file = next(weights.iterdir())
    if content:
        file.write_bytes(content)
    else:
        save_file(peer("resnet18").state | {"bn1.bias": np.full(64, np.nan, np.float32)}, file)
    with pytest.raises(InputError, match=f"{file}: {problem}") as error:
        imported(tmp_path / "model", weights)
    assert "weights=FOLDER" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "resnet18.pth"
    folder.mkdir()
    with pytest.raises(InputError, match=f"{folder}: cannot be read"):
        imagenet.find_weights(str(tmp_path), "resnet18")


def test_two_files_are_not_chosen_between(weights):
    save_file({"x": np.ones(1)}, weights / "resnet18-other.safetensors")
    with pytest.raises(InputError, match="2 files begin with resnet18"):
        imagenet.find_weights(str(weights), "resnet18")


def test_the_hub_is_asked_last_and_its_failure_is_one_line(monkeypatch, weights, caplog):
    asked = []

    def download(name, file):
        asked.append((name, file))
        logging.getLogger("huggingface_hub.utils").warning("Retrying")
        if name.startswith("timm/resnet50"):
            raise ConnectionError("no route\nto host")
        return weights / "resnet18-f37072fd.safetensors"

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download))
    assert imagenet.find_weights("", "resnet18").path.exists()
    assert asked == [("timm/resnet18.tv_in1k", "model.safetensors")]
    with pytest.raises(MissingWeightsError, match=r"download failed \(no route\); download") as failed:
        imagenet.find_weights("", "resnet50")
    assert "pip install" not in str(failed.value)
    assert not caplog.records
    with pytest.raises(MissingWeightsError, match="no route"):  # the next run of a table does not wait again
        imagenet.find_weights("", "resnet50")
    assert len(asked) == 2
