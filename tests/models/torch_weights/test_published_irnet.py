"""Checkpoints of the published IRNet, with all names that its program saves."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from golden.peers import peer, published_irnet
from safetensors.numpy import save_file

import chexseg_jax
from chexseg_jax.errors import InputError
from chexseg_jax.models.torch_weights import from_torch
from chexseg_jax.models.torch_weights.__main__ import main
from chexseg_jax.models.torch_weights.files import read

IRNET = peer("irnet").state


def saved(file: Path, state: dict) -> Path:
    save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, file)
    return file


def imported(part: Path, state: dict) -> list:
    main([str(saved(part.with_suffix(".safetensors"), state)), str(part), "--model", "irnet"])
    return jax.tree.leaves(chexseg_jax.restore(part).variables)


def test_an_import_says_what_it_drops_and_what_repeats(tmp_path, capsys):
    state = published_irnet(IRNET)
    variables = imported(tmp_path / "published", state)
    printed = capsys.readouterr().err
    assert f"{len(IRNET)} tensors, the published IRNet" in printed
    dropped = re.search(r"dropped \(5\): (.*)", printed)[1].split(", ")
    assert {*dropped} == {"disp_target", *(f"path_indices{i}" for i in range(4))}
    assert f"{len(state) - len(IRNET) - 5} further names of these tensors, equal to them" in printed
    network = imported(tmp_path / "network", IRNET)
    assert all(np.array_equal(*pair) for pair in zip(variables, network, strict=True))


MEAN_SHIFT = ("fc_dp7.4.running_mean", "mean_shift.running_mean", "dp_layers.6.4.running_mean")


@pytest.mark.parametrize("kept", MEAN_SHIFT)
def test_the_mean_shift_comes_from_whichever_name_it_has(kept, tmp_path):
    state = {key: value for key, value in published_irnet(IRNET).items() if key not in MEAN_SHIFT}
    state[kept] = np.float32([0.5, -2.0])
    variables = from_torch("irnet", read(saved(tmp_path / "irn.safetensors", state)).state)
    assert np.array_equal(variables["batch_stats"]["fc_dp7_4"]["mean"], state[kept])


@pytest.mark.parametrize(
    ("alias", "own"),
    [
        ("mean_shift.running_mean", "fc_dp7.4.running_mean"),
        ("stage1.0.weight", "resnet50.conv1.weight"),
        ("backbone.4.0.2.bn3.bias", "resnet50.layer4.2.bn3.bias"),
        ("edge_layers.5.bias", "fc_edge6.bias"),
    ],
)
def test_a_name_whose_tensor_differs_is_an_error_that_names_both(alias, own, tmp_path):
    state = published_irnet(IRNET)
    state[alias] = state[alias] + 1
    file = saved(tmp_path / "irn.safetensors", state)
    with pytest.raises(InputError) as error:
        read(file)
    assert {str(file), alias, own} <= {word.strip(":,") for word in str(error.value).split()}


@pytest.mark.parametrize("name", ["path_indices", "disp_targets", "stage6.0.weight", "fc_edge7.weight"])
def test_unknown_tensors_are_left_over(name, tmp_path):
    file = saved(tmp_path / "irn.safetensors", published_irnet(IRNET) | {name: np.ones(3, np.float32)})
    with pytest.raises(InputError, match=rf"1 left over \['{name}'\]"):
        from_torch("irnet", read(file).state)


def test_a_missing_tensor_is_missed(tmp_path):
    absent = ("fc_edge1.0.weight", "edge_layers.0.0.weight")
    state = {key: value for key, value in published_irnet(IRNET).items() if key not in absent}
    with pytest.raises(InputError, match=r"1 tensors missing \['fc_edge1.0.weight'\], 0 left over"):
        from_torch("irnet", read(saved(tmp_path / "irn.safetensors", state)).state)


def test_the_first_release_imports(tmp_path):
    """Its mean shift was a BatchNorm, and its indices were parameters."""
    further = {
        "fc_dp7.4.running_var": np.ones(2, np.float32),
        "fc_dp7.4.num_batches_tracked": np.int64(3),
        "ind_from": np.zeros((1, 9), np.int64),
        "ind_to": np.zeros((34, 9), np.int64),
    }
    file = read(saved(tmp_path / "irn.safetensors", IRNET | further))
    assert {*file.dropped} == {"fc_dp7.4.running_var", "ind_from", "ind_to"}
    from_torch("irnet", file.state)
