import numpy as np
import pytest
from golden.peers import CLASSIFIERS, SEGMENTERS, peer

from chexseg_jax.errors import InputError
from chexseg_jax.models.torch_weights import from_torch, to_torch


@pytest.mark.parametrize("name", [*CLASSIFIERS, *SEGMENTERS, "irnet"])
def test_round_trip_is_exact(name):
    state = peer(name).state
    back = to_torch(name, peer(name).variables)
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert back[key].dtype == value.dtype, key
        assert back[key].shape == value.shape, key
        assert back[key].tobytes() == value.tobytes(), key


def test_classes_are_read_off_the_head():
    state = peer("resnet18").state | {"fc.weight": np.ones((3, 512)), "fc.bias": np.zeros(3)}
    variables = from_torch("resnet18", state)
    assert variables["params"]["fc"]["kernel"].shape == (512, 3)
    assert variables["params"]["fc"]["kernel"].dtype == np.float32


def test_missing_and_left_over_tensors_are_printed(capsys):
    state = dict(peer("resnet18").state)
    state["module.conv1.weight"] = state.pop("conv1.weight")
    del state["layer1.0.bn1.running_var"]
    with pytest.raises(InputError, match=r"2 tensors missing.*1 left over"):
        from_torch("resnet18", state)
    printed = capsys.readouterr().out
    assert "missing from the state dict (2): " in printed
    assert "conv1.weight" in printed
    assert "layer1.0.bn1.running_var" in printed
    assert "left over in the state dict (1): module.conv1.weight" in printed


def test_headless_weights_are_refused(capsys):
    state = {key: value for key, value in peer("resnet18").state.items() if not key.startswith("fc.")}
    with pytest.raises(InputError, match="fc"):
        from_torch("resnet18", state)


def test_heads_are_dropped_only_when_asked():
    state = peer("resnet18").state
    whole, headless = from_torch("resnet18", state), from_torch("resnet18", state, drop_head=True)
    assert headless["params"].keys() == whole["params"].keys() - {"fc"}
    without = {key: value for key, value in state.items() if not key.startswith("fc.")}
    assert from_torch("resnet18", without, drop_head=True)["params"].keys() == headless["params"].keys()
    with pytest.raises(InputError, match="irnet has no head"):
        from_torch("irnet", peer("irnet").state, drop_head=True)


def test_a_stem_of_one_channel_goes_both_ways():
    state = peer("resnet18").state | {"conv1.weight": np.ones((64, 1, 7, 7), np.float32)}
    variables = from_torch("resnet18", state)
    assert variables["params"]["conv1"]["kernel"].shape == (7, 7, 1, 64)
    assert to_torch("resnet18", variables)["conv1.weight"].shape == (64, 1, 7, 7)


def test_wrong_shapes_are_named_with_both():
    state = peer("resnet18").state | {"conv1.weight": np.zeros((64, 2, 7, 7))}
    with pytest.raises(
        InputError, match=r"conv1.weight has shape \(64, 2, 7, 7\), resnet18 needs \(64, 3, 7, 7\)"
    ):
        from_torch("resnet18", state)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("fc.bias", np.full(14, np.nan), "holds NaN or infinity"),
        ("fc.bias", np.full(14, 1e300), "holds NaN or infinity"),  # in float32
        ("bn1.running_mean", np.full(64, np.inf, np.float16), "holds NaN or infinity"),
        ("bn1.running_var", np.full(64, -1.0), "is a running variance and below 0"),
        ("bn1.bias", np.zeros(64, np.int8), "is int8, not floating-point"),
        ("bn1.bias", np.zeros(64, bool), "is bool, not floating-point"),
        ("bn1.bias", np.zeros(64, complex), "is complex128, not floating-point"),
        ("bn1.bias", np.zeros(64, str), "is <U1, not floating-point"),
        ("conv1.weight", np.ones((), np.float32), r"has shape \(\)"),
        ("fc.bias", np.ones((), np.float32), r"has shape \(\)"),
    ],
)
def test_weights_that_cannot_be_used_are_named(name, value, problem):
    with pytest.raises(InputError, match=f"{name} {problem}"):
        from_torch("resnet18", peer("resnet18").state | {name: value})


def test_weights_of_another_depth_are_refused(capsys):
    with pytest.raises(InputError, match="not a resnet50's"):
        from_torch("resnet50", peer("resnet18").state)
