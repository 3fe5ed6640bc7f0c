"""How programs name and nest the same network's tensors, and what torchxrayvision's own outputs are."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import recipe
from golden.peers import FOLDER, SEED, distance, jit
from ml_collections import ConfigDict
from tiny import Tiny

import chexseg_jax
from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.models.normalisation import XRV, normalise
from chexseg_jax.models.torch_weights import files, network_of, to_torch
from chexseg_jax.models.zoo import ENCODERS, create
from chexseg_jax.saved_model import Restored
from chexseg_jax.stages.imported import find_model, import_model, read_weights

ONE = np.ones(3, np.float32)


def below(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


def encoder(state: dict) -> dict:
    return {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}


def other(state: dict) -> dict:
    return {key: value + 1 for key, value in state.items()}


def chexnet(state: dict) -> dict:
    """`DataParallel` around a module with `densenet121`, whose head is `Sequential(Linear, Sigmoid)`."""
    named = {re.sub(r"^classifier\.", "classifier.0.", key): value for key, value in state.items()}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in named.items()}
    return {"epoch": 3, "state_dict": below("module.densenet121.", old)}


#: name -> (network, the file's content from its state dict, what is dropped)
NAMINGS = {
    "torch.compile": ("resnet18", lambda s: below("_orig_mod.", s), ()),
    "torch.compile within DataParallel": ("resnet18", lambda s: below("module._orig_mod.", s), ()),
    "backbone": ("resnet18", lambda s: below("model.backbone.", s), ()),
    "CheXNet": ("densenet121", chexnet, ()),
    "model_state_dict": ("resnet18", lambda s: {"model_state_dict": s, "optimizer": {"state": {}}}, ()),
    "model": ("resnet18", lambda s: {"model": s, "args": {"lr": 1}}, ()),
    "net": ("resnet18", lambda s: {"net": below("module.", s), "acc": 0.9}, ()),
    "a teacher in its entry": ("resnet18", lambda s: {"model": other(s), "teacher": s}, ()),
    "a teacher and its student": (
        "resnet18",
        lambda s: below("teacher.", s) | below("student.", {"conv1.weight": ONE}),
        ("student.conv1.weight",),
    ),
    "averaged weights": ("resnet18", lambda s: {"n_averaged": ONE} | below("module.", s), ("n_averaged",)),
    "Lightning with a loss and metrics": (
        "resnet18",
        lambda s: {
            "pytorch-lightning_version": "2.5.0",
            "state_dict": below("model.", s)
            | dict.fromkeys(("criterion.pos_weight", "loss_fn.weight", "val_auroc.preds", "pos_weight"), ONE),
        },
        ("criterion.pos_weight", "loss_fn.weight", "val_auroc.preds", "pos_weight"),
    ),
    "MoCo within Lightning": (
        "resnet18",
        lambda s: {
            "pytorch-lightning_version": "1.0",
            "state_dict": below("encoder_q.", encoder(s) | {"fc.0.weight": ONE})
            | dict.fromkeys(("encoder_k.conv1.weight", "queue", "val_queue_ptr"), ONE),
        },
        ("encoder_q.fc.0.weight", "encoder_k.conv1.weight", "queue", "val_queue_ptr"),
    ),
    "MoCo-CXR's DenseNet": (
        "densenet121",
        lambda s: {"state_dict": below("module.encoder_q.", encoder(s) | {"classifier.2.bias": ONE})},
        ("module.encoder_q.classifier.2.bias",),
    ),
    "MoCo v3": (
        "resnet18",
        lambda s: {
            "state_dict": below("module.base_encoder.", encoder(s) | {"fc.1.running_mean": ONE})
            | below("module.momentum_encoder.", {"conv1.weight": ONE})
            | {"module.predictor.0.weight": ONE}
        },
        (
            "module.base_encoder.fc.1.running_mean",
            "module.momentum_encoder.conv1.weight",
            "module.predictor.0.weight",
        ),
    ),
}


@pytest.fixture
def content(monkeypatch, tmp_path):
    """Make a file with any content, nested as a pickle would be."""

    def file(value):
        monkeypatch.setattr(files, "_load", lambda path: value)
        (tmp_path / "in.npz").touch()
        return tmp_path / "in.npz"

    return file


def named(name: str) -> dict:
    """Tensors of a network's names, to see where each of them goes."""
    return {key: np.ones(1) for key in json.loads((FOLDER / f"{name}.shapes.json").read_text())}


@pytest.mark.parametrize("naming", NAMINGS)
def test_each_naming_is_the_same_network(naming, content):
    name, make, dropped = NAMINGS[naming]
    state = named(name)
    file = files.read(content(make(state)))
    expected = encoder(state) if "MoCo" in naming else state
    assert file.state.keys() == expected.keys()
    assert all(file.state[key] is value for key, value in expected.items())
    assert set(file.dropped) == set(dropped)
    assert file.source.startswith("MoCo") == ("MoCo" in naming)
    assert network_of(file.state) == name


def test_networks_that_were_not_read_are_named(content):
    state = named("resnet18")
    file = files.read(content({"model": state, "teacher": state}))
    assert "in its entry 'teacher' (not read: model)" in file.source


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(ENCODERS, "tiny", Tiny)


def tiny(outputs: int, **more) -> dict:
    """A state dict of `tests/tiny.py`; the bias of output k is k."""
    shapes = jax.eval_shape(Tiny(outputs).init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    return to_torch("tiny", variables) | {"fc.bias": np.arange(outputs, dtype=np.float32)} | more


def opened(model: dict) -> Restored:
    """What `restore` would give, without the files."""
    config = ConfigDict({key: model[key] for key in ("name", "num_classes", "options", "size")})
    module = create(model["name"], num_classes=model["num_classes"])
    rest = (model["tasks"], {}, model["normalisation"], model["taxonomy"])
    return Restored(module, model["variables"], config, *rest)


@pytest.mark.parametrize("extra", ["temperature", "decoder.weight", "fc.1.weight", "lossy.weight"])
def test_a_tensor_of_no_known_name_is_refused_and_named(extra, content):
    state = below("module.", tiny(2, **{extra: ONE}))
    with pytest.raises(InputError, match=rf"in.npz: .* 1 left over \['{extra}'\]"):
        read_weights(content(state), "tiny")


def xrv(**more) -> dict:
    shapes = json.loads((FOLDER / "densenet121.shapes.json").read_text())
    shapes |= {
        "features.conv0.weight": [64, 1, 7, 7],
        "classifier.weight": [18, 1024],
        "classifier.bias": [18],
    }
    return recipe.state(SEED, shapes) | more


def test_torchxrayvisions_densenet_has_its_own_logits(content, capsys):
    """Against `golden/make_torchxrayvision.py`: from the pixels on, so through the normalisation too."""
    golden = np.load(FOLDER / "torchxrayvision.npz")
    assert tuple(golden["targets"]) == files.XRV_OUTPUTS
    model = opened(read_weights(content(xrv(op_threshs=np.full(18, 0.5, np.float32)))))
    assert "dropped (1): op_threshs" in capsys.readouterr().err
    assert (model.normalisation, model.config.size, model.tasks) == (XRV, 224, files.XRV_OUTPUTS)
    images = normalise(jnp.asarray(golden["pixels"]), model.normalisation)
    logits, _ = jit(model.module.apply)(model.variables, images)
    assert distance(logits, golden["logits"]) < 1e-4
    outputs = dict(zip(CHEXPERT.tasks, model.outputs_of(CHEXPERT), strict=True))
    assert {task: files.XRV_OUTPUTS[k] if k >= 0 else "" for task, k in outputs.items()} == {
        **{task: task for task in CHEXPERT.tasks},
        **{"Airspace Opacity": "Lung Opacity", "Pleural Effusion": "Effusion", "Support Devices": ""},
    }
    nih = Taxonomy(labels=("Hernia", "Effusion"), tasks=("Effusion", "Hernia"))
    assert [files.XRV_OUTPUTS[k] for k in model.outputs_of(nih)] == ["Effusion", "Hernia"]
    with pytest.raises(InputError, match="speak for none of the tasks Bone"):
        model.outputs_of(Taxonomy(labels=("Bone",), tasks=("Bone",)))


def test_outputs_that_torchxrayvision_did_not_train_are_left_out(content, capsys):
    points = np.full(18, np.nan, np.float32)
    points[[8, 16]] = 0.1
    model = read_weights(content(below("model.", tiny(18)) | {"op_threshs": points}), "tiny")
    assert (model["tasks"], model["num_classes"], model["size"]) == (("Pneumonia", "Lung Opacity"), 2, 512)
    assert model["variables"]["params"]["fc"]["bias"].tolist() == [8, 16]
    assert "16 outputs that were not trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("outputs", "labels", "effusion"),
    [(14, "nih", 2), (18, "xrv", 7), (14, "csv", 10), (2, "Pleural Effusion, Line", 0), (2, "a,Effusion", 1)],
)
def test_given_names_are_found_by_the_tasks(outputs, labels, effusion, content):
    model = opened(read_weights(content(tiny(outputs)), "tiny", labels=labels, normalisation=XRV))
    found = dict(zip(CHEXPERT.tasks, model.outputs_of(CHEXPERT), strict=True))
    assert found["Pleural Effusion"] == effusion


@pytest.mark.parametrize("order", ["csv", "chexseg"])
def test_a_classifier_of_the_ten_tasks_speaks_for_each(order, content):
    """Its output `Airspace Opacity` has the task's name, not that of CheXpert's label."""
    model = opened(read_weights(content(tiny(10)), "tiny", labels=order, normalisation=XRV))
    assert model.outputs_of(CHEXPERT).tolist() == list(range(10))


@pytest.mark.parametrize(("labels", "words"), [("xrv", "xrv names 18"), ("a,b,c", "a,b,c names 3")])
def test_names_of_another_number_are_refused(labels, words, content):
    with pytest.raises(InputError, match=f"{words} outputs, and .* has 2"):
        read_weights(content(tiny(2)), "tiny", labels=labels, normalisation=XRV)


def test_a_file_is_imported_on_the_way_if_it_leaves_no_question_open(content, tmp_path):
    (tmp_path / "part").mkdir()
    file, card = content(tiny(2)), {"name": "tiny"}
    (tmp_path / "in.npz.json").write_text(json.dumps(card))
    first = find_model(str(file))
    with pytest.raises(
        InputError, match=r"give --labels .*; flags are those of python -m .*torch_weights IN OUT"
    ):
        import_model(tmp_path / "part", source=first)
    card |= {"tasks": ["Edema", "Line"], "normalisation": XRV._asdict()}
    (tmp_path / "in.npz.json").write_text(json.dumps(card))
    assert find_model(str(file)).fingerprint != first.fingerprint
    import_model(tmp_path / "part", source=find_model(str(file)))
    copied = find_model(str(tmp_path / "part"))
    (tmp_path / "again").mkdir()
    import_model(tmp_path / "again", source=copied)
    assert find_model(str(tmp_path / "again")).fingerprint == copied.fingerprint
    assert chexseg_jax.restore(tmp_path / "again").tasks == ("Edema", "Line")
    del ENCODERS["tiny"]
    with pytest.raises(InputError, match="tiny"):  # whatever is no classifier, such as a segmentation
        import_model(tmp_path / "part", source=copied)
    with pytest.raises(InputError, match=r"none: neither a file of weights nor a folder with a model.json"):
        find_model(str(tmp_path / "none"))
