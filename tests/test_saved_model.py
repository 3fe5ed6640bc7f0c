import json
import os
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from golden.peers import distance
from tiny import Tiny

import chexseg_jax
from chexseg_jax import models
from chexseg_jax.data.images import fit_image
from chexseg_jax.data.provenance import UNKNOWN, Provenance
from chexseg_jax.data.reference import UPRIGHT
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import DamagedError, InputError
from chexseg_jax.models.normalisation import IMAGENET, normalise
from chexseg_jax.saved_model import initialise_from, save_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    module = models.create("resnet18", num_classes=14, output_stride=16)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    save_model(
        directory,
        variables,
        name="resnet18",
        num_classes=14,
        options={"output_stride": 16},
        size=32,
        tasks=CHEXPERT.labels,
        normalisation=IMAGENET,
        thresholds=dict.fromkeys(CHEXPERT.labels, 0.25),
        config={"epochs": 3},
        provenance=Provenance("phantom", True),
        reference=replace(UPRIGHT, limit=2.5),
    )
    return directory, module, variables


def test_a_model_comes_back_with_all_that_goes_with_it(saved):
    directory, _, variables = saved
    restored = chexseg_jax.restore(directory)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored.variables, variables))
    assert restored.tasks == CHEXPERT.labels
    assert restored.thresholds == dict.fromkeys(CHEXPERT.labels, 0.25)
    assert restored.normalisation == IMAGENET
    assert (restored.config.name, restored.config.size, restored.config.config.epochs) == ("resnet18", 32, 3)
    assert restored.module.output_stride == 16
    assert (restored.provenance, restored.reference.limit) == (Provenance("phantom", True), 2.5)


def test_a_notebook_shows_a_model_without_its_weights(saved):
    assert "array" not in repr(chexseg_jax.restore(saved[0])).lower()


def test_predict_takes_radiographs_of_any_size(saved):
    directory, module, variables = saved
    images = [np.full((20, 32), 90, np.uint8), np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)]
    probabilities = chexseg_jax.restore(directory).predict(images)
    assert probabilities.shape == (2, 14)
    logits, _ = jax.jit(module.apply)(variables, normalise(jnp.asarray(images[1][None]), IMAGENET))
    np.testing.assert_allclose(probabilities[1], jax.nn.sigmoid(logits)[0], rtol=1e-4, atol=1e-6)


def test_a_classifier_of_other_classes_gives_its_weights_but_for_the_head(saved):
    directory, _, variables = saved
    other = models.create("resnet18", num_classes=3, output_stride=16)
    params, state = initialise_from(chexseg_jax.restore(directory), other, 32)(jax.random.key(1))
    assert params["fc"]["bias"].shape == (3,)
    for tree, old in ((params, variables["params"]), (state["batch_stats"], variables["batch_stats"])):
        same = {name: value for name, value in tree.items() if name != "fc"}
        assert jax.tree.all(jax.tree.map(np.array_equal, same, {name: old[name] for name in same}))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 20, 20), np.uint16),
        np.zeros((1, 20, 20), np.float32),
        np.zeros((1, 20, 20, 3), np.uint8),
        np.zeros((20, 30, 3), np.uint8),
        np.zeros((20, 30, 4), np.uint8),
        [np.zeros((0, 20), np.uint8)],
        np.zeros((0, 20, 20), np.uint8),
    ],
    ids=["sixteen bits", "floats", "colour", "one in colour", "one with opacity", "no pixel", "none"],
)
def test_predict_makes_no_guess_of_what_numbers_stand_for(saved, images):
    with pytest.raises(InputError, match=r"give grey uint8 \[height, width\]|no image"):
        chexseg_jax.restore(saved[0]).predict(images)


def test_a_runs_folder_leads_to_its_model(saved, tmp_path):
    (tmp_path / "model").symlink_to(saved[0])  # earlier versions made a link
    assert chexseg_jax.restore(str(tmp_path)).config.name == "resnet18"


def test_a_copied_run_whose_link_leads_nowhere_is_named(tmp_path):
    (tmp_path / "model").symlink_to("../../artifacts/segmentation-1")
    with pytest.raises(
        InputError, match=r"model: links to \.\./\.\./artifacts/segmentation-1, which is not here"
    ):
        chexseg_jax.restore(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no model"):
        chexseg_jax.restore(tmp_path)


def test_half_a_model_is_named(saved, tmp_path):
    card = (saved[0] / "model.json").read_text()
    (tmp_path / "model.json").write_text(card)
    with pytest.raises(InputError, match="has no variables/"):
        chexseg_jax.restore(tmp_path)
    (tmp_path / "model.onnx").touch()
    with pytest.raises(InputError, match=r"packaged as model\.onnx for other programs; give the model"):
        chexseg_jax.restore(tmp_path)
    (tmp_path / "variables").mkdir()
    (tmp_path / "model.json").write_text(card.replace('"size"', '"side"'))
    with pytest.raises(InputError, match=r"model\.json: has no size"):
        chexseg_jax.restore(tmp_path)
    (tmp_path / "model.json").write_text(card[:-9])
    with pytest.raises(InputError, match=r"model\.json: truncated or corrupt"):
        chexseg_jax.restore(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Edema": None}, r"threshold None of Edema must be a number"),
        ({"Edema": float("nan")}, r"threshold nan of Edema must be a number, at least 0 and below 1"),
        ({"Edema": "0.3"}, r"threshold '0\.3' of Edema"),
        ({"Edema": 45}, r"threshold 45 of Edema"),
        ({"Oedema": 0.3}, r"thresholds: Oedema is no task of the model"),
    ],
)
def test_thresholds_edited_by_hand_are_checked(saved, tmp_path, change, message):
    folder = shutil.copytree(saved[0], tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | {"thresholds": card["thresholds"] | change}))
    with pytest.raises(InputError, match=r"model\.json: " + message):
        chexseg_jax.restore(folder)
    del card["thresholds"]["Edema"]
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"model\.json: thresholds: Edema is missing"):
        chexseg_jax.restore(folder)


def drop_checksums(file):
    """As saved by earlier versions, whose damage Orbax has to notice."""
    card = json.loads(file.read_text())
    del card["checksums"]
    file.write_text(json.dumps(card))


def test_any_bit_of_the_weights_counts(saved, tmp_path):
    """Orbax alone reads most flipped bits within the values as other weights, without an error."""
    shutil.copytree(saved[0], tmp_path / "model")
    weights = max((tmp_path / "model" / "variables").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DamagedError, match=f"{weights.name}: missing, or not what was written; copy the fol"):
        chexseg_jax.restore(tmp_path)


def test_weights_copied_by_half_are_named(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "model")
    drop_checksums(tmp_path / "model" / "model.json")
    weights = max((tmp_path / "model" / "variables").rglob("*"), key=lambda path: path.stat().st_size)
    for length in (weights.stat().st_size // 2, 0):
        os.truncate(weights, length)
        with pytest.raises(InputError, match=r"variables: truncated or corrupt .*; copy the folder again"):
            chexseg_jax.restore(tmp_path)
    (tmp_path / "model" / "variables" / "_METADATA").write_text("{")
    with pytest.raises(InputError, match="variables: truncated or corrupt"):
        chexseg_jax.restore(tmp_path)
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"variables: a Git LFS pointer"):
        chexseg_jax.restore(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("params/fc/bias", np.nan, "holds NaN or infinity"),
        ("params/conv1/kernel", -np.inf, "holds NaN or infinity"),
        ("batch_stats/norms_1/var", -0.1, "is a running variance and below 0"),
    ],
)
def test_weights_that_predict_nothing_are_named(path, value, problem, tmp_path, monkeypatch):
    monkeypatch.setitem(models.ENCODERS, "tiny", Tiny)
    module = models.create("tiny", num_classes=2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    flat = {name: np.ones(x.shape, x.dtype) for name, x in flatten_dict(shapes, sep="/").items()}
    flat[path].flat[-1] = value
    save_model(
        tmp_path,
        unflatten_dict(flat, sep="/"),
        name="tiny",
        num_classes=2,
        options={},
        size=32,
        tasks=("a", "b"),
        normalisation=IMAGENET,
    )
    with pytest.raises(InputError, match=f"{tmp_path}/variables: {path} {problem}"):
        chexseg_jax.restore(tmp_path)


def test_a_network_without_outputs_predicts_nothing(tmp_path):
    module = models.create("resnet18", num_classes=0)
    variables = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    save_model(
        tmp_path,
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables),
        name="resnet18",
        num_classes=0,
        options={},
        size=32,
        tasks=(),
        normalisation=IMAGENET,
    )
    with pytest.raises(InputError, match="without outputs"):
        chexseg_jax.restore(tmp_path).predict(np.zeros((1, 20, 20), np.uint8))


def test_the_kernels_that_an_earlier_version_recorded_are_no_option_any_more(golden, tmp_path):
    folder = shutil.copytree(golden / "saved_by_718f1c4" / "model", tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(
        json.dumps(card | {"options": card["options"] | {"cpu_kernels": False}})
    )
    restored = chexseg_jax.restore(folder)
    assert restored.config.options.to_dict() == card["options"]


def test_a_run_saved_before_the_rooms_were_rebuilt_restores_with_equal_logits(golden):
    """`saved_by_718f1c4` is a run's folder as that commit wrote it, with weights that compress, and its logits."""
    folder = golden / "saved_by_718f1c4"
    restored = chexseg_jax.restore(folder)
    assert restored.tasks == restored.taxonomy.tasks == CHEXPERT.tasks
    assert (restored.provenance, restored.reference) == (UNKNOWN, UPRIGHT)
    assert restored.thresholds["Pneumothorax"] == pytest.approx(0.45)
    with np.load(folder / "logits.npz") as saved:
        images = np.stack([fit_image(image, restored.config.size) for image in saved["images"]])
        expected = saved["deeplabv3plus_resnet18"]
    inputs = normalise(jnp.asarray(images), restored.normalisation)
    logits, _ = jax.jit(restored.module.apply)(restored.variables, inputs)
    assert distance(logits, expected) < 1e-5  # the commit's convolutions round otherwise
