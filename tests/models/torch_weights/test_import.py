"""Checkpoints as their sources hold them, through the command, to the peers' reference numbers."""

import argparse
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from golden.peers import applied, distance, images, irn, nchw, peer, published_irnet
from safetensors.numpy import save_file

import chexseg_jax
from chexseg_jax.data.taxonomy import CHEXPERT as CHEXPERT_TASKS
from chexseg_jax.data.taxonomy import CHEXSEG_LABELS, CHEXSEG_TASKS, read_taxonomy
from chexseg_jax.errors import InputError, run_command
from chexseg_jax.models.normalisation import CHEXPERT, IMAGENET, XRV
from chexseg_jax.models.torch_weights.__main__ import main
from chexseg_jax.stages.imported import read_weights


def command(monkeypatch, *arguments) -> int:
    """The exit code of `python -m chexseg_jax.models.torch_weights ...`."""
    monkeypatch.setattr(sys, "argv", ["torch_weights", *map(str, arguments)])
    try:
        run_command(main)
    except SystemExit as end:
        return end.code
    return 0


def below(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


def old_densenet(state: dict) -> dict:
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in state.items()}


def moco(state: dict) -> dict:
    encoder = {key: value for key, value in state.items() if not key.startswith("fc.")}
    head = {"fc.0.weight": np.ones((512, 512)), "fc.0.bias": np.ones(512), "fc.2.weight": np.ones((128, 512))}
    queue = {"module.queue": np.ones((128, 64)), "module.queue_ptr": np.zeros(1, np.int64)}
    twins = below("module.encoder_k.", encoder | head) | queue
    return below("module.encoder_q.", encoder | head) | twins


SOURCES = {
    "torchvision": ("resnet18", dict),
    "torchvision's oldest": ("densenet121", old_densenet),
    "DataParallel": ("resnet18", lambda s: below("module.", s)),
    "MoCo": ("resnet18", moco),
    "smp 0.6": ("deeplabv3plus_resnet18", dict),
    "the fork of smp 0.1": ("deeplabv3plus_resnet18", lambda s: below("module.", s)),
    "IRNet's network": ("irnet", dict),
    "IRNet": ("irnet", published_irnet),
    "DataParallel IRNet": ("irnet", lambda s: below("module.", published_irnet(s))),
    "IRNet, by its aliases": (
        "irnet",
        lambda s: {k: v for k, v in published_irnet(s).items() if k not in s},
    ),
}
#: The normalisation and the outputs' names that the tests' files have, where none follow from them.
NORMALISED = ("--normalisation", "chexpert")
CHOSEN = (*NORMALISED, "--labels", "csv")


def check(name: str, directory, *, headless: bool = False):
    """A restored model's outputs against the reference numbers."""
    model, expected = chexseg_jax.restore(directory), peer(name).expected
    logits, out = applied(model.module)(model.variables, images("irn_x" if name == "irnet" else "x", 96, 2))
    if name == "irnet":
        assert distance(out["edge"], irn("net_edge_logits").transpose(0, 2, 3, 1)) < 1e-4
    elif name.startswith("deeplab"):
        assert distance(nchw(logits)[:, :, ::3, ::3], expected["eval_logits"]) < 1e-5
    else:
        assert distance(nchw(out["features"]), expected["eval_features"]) < 1e-5
        assert (logits is None) == headless
        if not headless:
            assert distance(logits, expected["eval_logits"]) < 1e-5
    return model


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("ending", ["safetensors", "npz"])
def test_each_source_gives_the_reference_numbers(source, ending, tmp_path, monkeypatch, capsys):
    name, make = SOURCES[source]
    if ending == "npz" and name != "resnet18":
        pytest.skip("the reader of npz does not depend on the network")
    file = tmp_path / f"weights.{ending}"
    state = {key: np.ascontiguousarray(value) for key, value in make(peer(name).state).items()}
    save_file(state, file) if ending == "safetensors" else np.savez(file, **state)
    irnet = name == "irnet"
    arguments = (file, tmp_path / "out", "--model", name)
    flags = () if irnet else NORMALISED if source == "MoCo" else CHOSEN
    assert command(monkeypatch, *arguments, *flags) == 0
    model = check(name, tmp_path / "out", headless=source == "MoCo")
    assert model.normalisation == (IMAGENET if irnet else CHEXPERT)
    printed = capsys.readouterr().err
    assert ("dropped" in printed) == (source == "MoCo" or (irnet and source != "IRNet's network"))


def lightning(folder: Path, **hyperparameters) -> Path:
    """A classifier's checkpoint as CheXseg's program writes it."""
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(np.array(value)) for key, value in peer("resnet18").state.items()}
    checkpoint = {
        "pytorch-lightning_version": "0.7.6",
        "epoch": 2,
        "state_dict": below("model.model.", state),
        **hyperparameters,
    }
    torch.save(checkpoint, folder / "epoch=2.ckpt")
    return folder / "epoch=2.ckpt"


def recorded(normalization: str) -> dict:
    arguments = argparse.Namespace(normalization=normalization, scale=320)
    return {"lr": 1e-4, "save_dir": Path("/runs"), "transform_args": arguments}


@pytest.mark.parametrize(
    ("hyperparameters", "normalisation"),
    [
        ({"hyper_parameters": argparse.Namespace(**recorded("chexpert_norm"))}, CHEXPERT),
        ({"hyper_parameters": recorded("imagenet")}, IMAGENET),
        ({"hparams": recorded("imagenet")}, IMAGENET),
    ],
)
def test_a_checkpoint_of_chexsegs_classifier_records_its_normalisation(
    hyperparameters, normalisation, tmp_path, monkeypatch, capsys
):
    file = lightning(tmp_path, **hyperparameters)
    assert command(monkeypatch, file, tmp_path / "out", "--labels", "csv") == 0
    assert "as in the program that wrote the file (Lightning" in capsys.readouterr().err
    model = check("resnet18", tmp_path / "out")
    assert model.normalisation == normalisation
    assert model.tasks[0] == "No Finding"


@pytest.mark.parametrize(
    "hyperparameters", [{}, {"hyper_parameters": {"lr": 1}}, {"hparams": recorded("none")}]
)
def test_other_lightning_checkpoints_record_none(hyperparameters, tmp_path, monkeypatch, capsys):
    file = lightning(tmp_path, **hyperparameters)
    line = refused(monkeypatch, capsys, file, tmp_path / "out", "--labels", "csv")
    assert "give --normalisation imagenet, chexpert, xrv or MEAN,STD" in line


def test_the_normalisation_of_another_programs_network_is_not_guessed(tmp_path, monkeypatch, capsys):
    file = tmp_path / "in.npz"
    np.savez(file, **moco(peer("resnet18").state))
    line = refused(monkeypatch, capsys, file, tmp_path / "out", "--model", "resnet18")
    assert f"{file}: nothing in the file tells" in line
    assert "give --normalisation imagenet, chexpert, xrv or MEAN,STD" in line
    with pytest.raises(InputError, match="give --normalisation"):
        read_weights(file)


def test_a_file_with_imagenets_classes_has_its_normalisation(tmp_path, monkeypatch, capsys):
    head = {"fc.weight": np.ones((1000, 512), np.float32), "fc.bias": np.ones(1000, np.float32)}
    np.savez(tmp_path / "in.npz", **peer("resnet18").state | head)
    arguments = (tmp_path / "in.npz", tmp_path / "out", "--model", "resnet18", "--drop-head")
    assert command(monkeypatch, *arguments) == 0
    assert "ImageNet's, whose 1000 classes" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "model.json").read_text())["normalisation"] == {
        key: list(values) for key, values in IMAGENET._asdict().items()
    }


@pytest.mark.parametrize(
    ("name", "head"), [("resnet18", "fc"), ("deeplabv3plus_resnet18", "segmentation_head.0")]
)
def test_outputs_in_the_order_of_chexsegs_program_are_put_into_ours(
    name, head, tmp_path, monkeypatch, capsys
):
    ours, theirs = (
        (CHEXPERT_TASKS.labels, CHEXSEG_LABELS)
        if name == "resnet18"
        else (CHEXPERT_TASKS.tasks, CHEXSEG_TASKS)
    )
    rows = [ours.index(task) for task in theirs]
    state = dict(peer(name).state)
    for part in ("weight", "bias"):
        state[f"{head}.{part}"] = np.ascontiguousarray(state[f"{head}.{part}"][rows])
    save_file(state, tmp_path / "in.safetensors")
    arguments = (tmp_path / "in.safetensors", tmp_path / "out", "--model", name, *NORMALISED)
    assert "give --labels csv, chexseg, nih, xrv, a tasks.toml or the names" in refused(
        monkeypatch, capsys, *arguments
    )
    assert command(monkeypatch, *arguments, "--labels", "chexseg") == 0
    assert check(name, tmp_path / "out").tasks == ours


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pth"])
def test_out_and_in_again_is_the_same_model(ending, tmp_path, monkeypatch):
    if ending == "pth":
        pytest.importorskip("torch")
    save_file(peer("resnet18").state, tmp_path / "in.safetensors")
    arguments = (*CHOSEN, "--size", 96)
    assert command(monkeypatch, tmp_path / "in.safetensors", tmp_path / "a", *arguments) == 0
    card = json.loads((tmp_path / "a" / "model.json").read_text())
    card["provenance"] |= {"data": "phantom", "synthetic": True}
    (tmp_path / "a" / "model.json").write_text(json.dumps(card))
    assert command(monkeypatch, tmp_path / "a", tmp_path / f"back.{ending}") == 0
    assert command(monkeypatch, tmp_path / "a", tmp_path / "nowhere" / f"back.{ending}") == 2
    assert command(monkeypatch, tmp_path / f"back.{ending}", tmp_path / "b", "--model", "resnet18") == 0
    first, second = (json.loads((tmp_path / x / "model.json").read_text()) for x in "ab")
    del first["checksums"], second["checksums"]
    assert first == second
    assert second["normalisation"]["mean"] == list(CHEXPERT.mean)
    a, b = (chexseg_jax.restore(tmp_path / x).variables for x in "ab")
    assert jax.tree.all(jax.tree.map(np.array_equal, a, b))


def refused(monkeypatch, capsys, *arguments) -> str:
    assert command(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")[-1:]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pth"])
def test_a_truncated_file_is_refused(ending, tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    state = peer("resnet18").state
    if ending == "pth":
        torch = pytest.importorskip("torch")
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in state.items()}, whole)
    elif ending == "npz":
        np.savez(whole, **state)
    else:
        save_file(state, whole)
    cut.write_bytes(whole.read_bytes()[:100_000])
    line = refused(monkeypatch, capsys, cut, tmp_path / "out", "--model", "resnet18")
    assert "cut" in line
    assert "truncated" in line
    assert not (tmp_path / "out").exists()


def test_another_architecture_is_refused_and_the_difference_printed(tmp_path, monkeypatch, capsys):
    save_file(peer("resnet18").state, tmp_path / "in.safetensors")
    assert command(monkeypatch, tmp_path / "in.safetensors", tmp_path / "out", "--model", "resnet50") == 2
    printed = capsys.readouterr()
    assert "layer1.0.conv3.weight" in printed.out
    assert "not a resnet50's" in printed.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.safetensors"]


class Bomb:
    """A pickle of it makes a file when it is loaded the unsafe way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / "in.pth")
    line = refused(monkeypatch, capsys, tmp_path / "in.pth", tmp_path / "out", "--model", "resnet18")
    assert "not run" in line
    assert not (tmp_path / "ran").exists()


def test_npz_with_objects_is_refused_without_running_them(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "in.npz", x=np.array([Bomb(tmp_path / "ran")], dtype=object))
    refused(monkeypatch, capsys, tmp_path / "in.npz", tmp_path / "out", "--model", "resnet18")
    assert not (tmp_path / "ran").exists()


def test_pickled_files_without_torch_say_what_to_install(tmp_path, monkeypatch, capsys):
    (tmp_path / "in.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    line = refused(monkeypatch, capsys, tmp_path / "in.pth", tmp_path / "out", "--model", "resnet18")
    assert "chexseg-jax[torch]" in line


def test_other_mistakes_each_have_their_line(tmp_path, monkeypatch, capsys):
    assert "no such file" in refused(
        monkeypatch, capsys, tmp_path / "none.npz", tmp_path / "o", "--model", "irnet"
    )
    (tmp_path / "weights.h5").write_bytes(b"x")
    assert ".safetensors" in refused(
        monkeypatch, capsys, tmp_path / "weights.h5", tmp_path / "o", "--model", "irnet"
    )
    np.savez(tmp_path / "in.npz", x=np.ones(1))
    assert "give --model" in refused(monkeypatch, capsys, tmp_path / "in.npz", tmp_path / "o")
    small = (tmp_path / "in.npz", tmp_path / "o", "--model", "irnet", "--size", 0)
    assert "--size 0 must be at least 1" in refused(monkeypatch, capsys, *small)
    conv1 = ("--stride-on", "conv1")
    assert "leave it out for densenet121" in refused(
        monkeypatch, capsys, tmp_path / "in.npz", tmp_path / "o", "--model", "densenet121", *conv1
    )
    (tmp_path / "in.npz.json").write_text(json.dumps({"name": "resnet18", "tasks": ["a", "b"]}))
    assert "leave --labels out" in refused(
        monkeypatch, capsys, tmp_path / "in.npz", tmp_path / "o", "--model", "resnet18", "--tasks", "csv"
    )
    (tmp_path / "in.npz.json").unlink()
    (tmp_path / "there").mkdir()
    assert "already exists" in refused(monkeypatch, capsys, tmp_path / "in.npz", tmp_path / "there")
    for flag in (("--labels", "a,b"), ("--size", 64), ("--drop-head",)):
        told = refused(monkeypatch, capsys, tmp_path / "there", tmp_path / "out.npz", *flag)
        assert f"{flag[0]} is for imports, but {tmp_path / 'there'} is a folder, which is exported" in told
    assert "unknown model" in refused(
        monkeypatch, capsys, tmp_path / "in.npz", tmp_path / "o", "--model", "vgg"
    )


def test_a_json_of_another_networks_outputs_is_refused(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "in.npz", **peer("resnet18").state)
    (tmp_path / "in.npz.json").write_text(json.dumps({"tasks": ["a", "b"]}))
    line = refused(monkeypatch, capsys, tmp_path / "in.npz", tmp_path / "o", "--model", "resnet18")
    assert "has 14 outputs, and the JSON beside it names 2" in line


def test_weights_of_one_channel_without_their_json_open(tmp_path, monkeypatch):
    grey = peer("resnet18").state | {"conv1.weight": np.ones((64, 1, 7, 7), np.float32)}
    np.savez(tmp_path / "grey.npz", **grey)
    arguments = (tmp_path / "grey.npz", tmp_path / "out", "--labels", "csv")
    assert command(monkeypatch, *arguments, "--normalisation", "xrv") == 0
    model = chexseg_jax.restore(tmp_path / "out")
    assert model.variables["params"]["conv1"]["kernel"].shape == (7, 7, 1, 64)
    assert model.normalisation == XRV
    assert model.predict(np.zeros((1, 64, 64), np.uint8)).shape == (1, 14)


TOML = """
labels = ["Nodule", "Fracture", "No Finding"]
tasks = ["Nodule", "Fracture"]
"""


@pytest.mark.parametrize(
    ("name", "head", "tasks"),
    [
        ("resnet18", "fc", ("Nodule", "Fracture", "No Finding")),
        ("deeplabv3plus_resnet18", "segmentation_head.0", ("Nodule", "Fracture")),
    ],
)
def test_outputs_named_by_a_tasks_toml(name, head, tasks, tmp_path, monkeypatch, capsys):
    state = dict(peer(name).state)
    for part in ("weight", "bias"):
        state[f"{head}.{part}"] = np.ascontiguousarray(state[f"{head}.{part}"][: len(tasks)])
    save_file(state, tmp_path / "in.safetensors")
    arguments = (tmp_path / "in.safetensors", tmp_path / "out", "--model", name, *NORMALISED, "--tasks")
    assert "names 14 or 10 outputs" in refused(monkeypatch, capsys, *arguments, "csv")
    toml = tmp_path / "tasks.toml"
    assert "no such file" in refused(monkeypatch, capsys, *arguments, toml)
    toml.write_text(TOML.replace('"Nodule", ', ""))
    assert f"has {len(tasks)} outputs" in refused(monkeypatch, capsys, *arguments, toml)
    toml.write_text(TOML)
    assert command(monkeypatch, *arguments, toml) == 0
    model = chexseg_jax.restore(tmp_path / "out")
    assert model.tasks == tasks
    assert model.taxonomy == read_taxonomy(tmp_path)
    assert command(monkeypatch, tmp_path / "out", tmp_path / "back.npz") == 0
    assert command(monkeypatch, tmp_path / "back.npz", tmp_path / "again", "--model", name) == 0
    assert chexseg_jax.restore(tmp_path / "again").taxonomy == model.taxonomy


@pytest.mark.real_data
def test_the_real_imagenet_resnet50_knows_a_cat_and_an_espresso(shared, tmp_path, monkeypatch):
    data = pytest.importorskip("skimage.data")
    file = shared / "weights" / "resnet50_imagenet_v1_fp16.safetensors"
    arguments = ("--model", "resnet50", "--stride-on", "conv1", "--size", 224)
    assert command(monkeypatch, file, tmp_path / "out", *arguments) == 0
    model = chexseg_jax.restore(tmp_path / "out")
    for name, label in (("chelsea", 285), ("coffee", 967)):  # Egyptian cat, espresso
        photograph = getattr(data, name)()
        side = min(photograph.shape[:2])
        top, left = ((length - side) // 2 for length in photograph.shape[:2])
        square = photograph[top : top + side, left : left + side].astype(np.float32) / 255
        x = jax.image.resize(square, (224, 224, 3), "linear")
        mean, std = map(np.array, model.normalisation)
        logits, _ = model.module.apply(model.variables, ((x - mean) / std)[None])
        assert int(logits[0].argmax()) == label
