"""The whole chain, small, on real files of a phantom."""

import json
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import weights
from safetensors.numpy import save_file
from tiny import Tiny

import chexseg_jax
from chexseg_jax import experiment
from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.chexpert import Studies
from chexseg_jax.data.images import read_grey, unfit_map
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import Records
from chexseg_jax.data.reference import UPRIGHT
from chexseg_jax.data.split import Split
from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.evaluation import iou
from chexseg_jax.evaluation.published import compare
from chexseg_jax.models import irnet
from chexseg_jax.models.normalisation import IMAGENET, XRV, normalise
from chexseg_jax.models.resnet import ResNet
from chexseg_jax.models.zoo import ENCODERS
from chexseg_jax.saliency.gradcam import grad_cam
from chexseg_jax.saved_model import save_model
from chexseg_jax.sources import Sources
from configs import full, moco, semi

TASKS = CHEXPERT.tasks

SMALL_MOCO = {
    "batch_size": 8,
    "epochs": 0.5,
    "queue": 16,
    "norm_group": 2,
    "size": 32,
    "checkpoint_every": 10,
}


def artifacts(workdir) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (workdir / "artifacts").iterdir()}


def test_a_run_leaves_what_people_look_at(tiny_run):
    _, run = tiny_run
    report = (run / "report.md").read_text()
    costs = report.split("## Training")[1].split("## ")[0]
    assert (
        costs.count("2 x cpu, float32") == 2
    )  # the classifier, which is the encoder too, and the segmentation
    assert "results on the phantom: synthetic images" in report
    for task in TASKS:
        assert report.count(f"| {task}") >= 3  # scores, thresholds, classifiers
    for heading in ("## Test IoU", "## Thresholds", "## Classifiers", "## Training", "## How it was made"):
        assert heading in report
    for name in (
        "overlays.png",
        "curves.png",
        "metrics.jsonl",
        "predictions.json",
        "scores.json",
        "config.json",
    ):
        assert (run / name).stat().st_size > 0
    assert json.loads((run / "config.json").read_text())["p"] == 0.9


def test_the_report_scores_what_the_predictions_file_holds(tiny_run):
    workdir, run = tiny_run
    (root,) = (workdir / "artifacts").glob("phantom-*/data")
    truth = read_segmentations(root / "gt_segmentations_test.json")
    _, counts = compare(truth, read_segmentations(run / "predictions.json")).test_set
    scores = json.loads((run / "scores.json").read_text())
    assert scores["data"].startswith("phantom: synthetic")
    for task, value in zip(TASKS, iou.pooled(counts), strict=True):
        assert scores["pooled"][task] == (None if np.isnan(value) else pytest.approx(value, abs=1e-4))


def test_the_origin_of_a_model_goes_with_it(tiny_run):
    """Also from a bare artifact, which is older than the scores."""
    workdir, run = tiny_run
    folders = [
        run,
        *(next((workdir / "artifacts").glob(f"{kind}-*")) for kind in ("segmentation", "classifier")),
    ]
    models = [chexseg_jax.restore(folder) for folder in folders]
    for model in models:
        assert model.provenance.synthetic
        assert str(model.provenance).startswith(
            "a model trained on phantom: synthetic images, not patients (frontal views; uncertain labels: ignore; "
        )
    # The classifier has too few training images here for a reference of its own.
    assert [model.reference is UPRIGHT for model in models] == [False, False, True]
    mean = json.loads((run / "scores.json").read_text())["pooled"]["mean"]
    assert [model.provenance.scores for model in models] == [{"test mIoU (pooled)": mean}, {}, {}]


def test_40_listed_images_validate_at_the_papers_scale_and_no_patient_is_on_both_sides(tmp_path):
    """234 images of 200 patients; every fifth is without findings, so the masks file does not list it."""
    ids = tuple(f"patient{i % 200}_study1_view{1 + i // 200}_frontal" for i in range(234))
    listed = np.arange(234) % 5 > 0
    masks = np.zeros((234, 4, 4, 2), np.uint8)
    masks[listed, :, :, 0] = 255
    labels, sizes = np.zeros((234, 14), np.float32), np.full((234, 2), 4, np.int32)
    images = np.zeros((234, 4, 4), np.uint8)
    known = np.ones((234, 10), bool)
    Prepared(ids, images, labels, sizes, CHEXPERT, masks, known, listed).save(tmp_path)
    paths = tuple(tmp_path / image_id.replace("_", "/", 2) for image_id in ids)
    split = Split("valid", Studies(ids, paths, labels, np.ones(234, bool)), None, None, "0")
    sources = Sources(split, split, split, CHEXPERT, False, tmp_path)
    config = semi.get_config("scale=paper")
    data = experiment.Data(sources, tmp_path, tmp_path, tmp_path, config.data.validation, config.split_seed)
    train, validation = data.split(data.listed)
    assert sorted([*train, *validation]) == np.flatnonzero(listed).tolist()
    assert len(validation) == 40
    sides = [{ids[row].split("_")[0] for row in rows} for rows in (train, validation)]
    assert not sides[0] & sides[1]
    few = replace(data, validation=float(len(data.listed) + 4))
    with pytest.raises(InputError, match=r"10 images with masks .* cannot be split"):
        few.split(few.listed[:10])  # as a share that is above 1, this would be a number: one image
    one = replace(data, validation=1.0)
    assert [len(part) for part in one.split(one.listed[:10])] == [9, 1]  # a share would be of no image
    none = replace(data)
    vars(none)["listed"] = data.listed[:0]  # of a masks file without an image
    with pytest.raises(InputError, match="0 images with masks"):
        none.split(none.listed)


def test_few_expert_images_are_drawn_for_each_trial_and_the_draws_are_nested(tiny_run, tiny_config):
    workdir, _ = tiny_run
    base = experiment.Run.open(tiny_config, workdir)

    def rows(number, trial):
        config = tiny_config.copy_and_resolve_references()
        config.experts, config.trial = number, trial
        train, validation = replace(base, config=config).expert_rows
        assert not set(train) & set(validation)
        assert len(train) + len(validation) == number
        return {*train, *validation}

    listed = set(base.data.listed)
    few, more = len(listed) // 3, len(listed) // 2
    assert rows(few, 0) < rows(more, 0) < listed
    assert rows(few, 0) != rows(few, 1)
    assert rows(len(listed), 0) == listed
    with pytest.raises(InputError, match=f"only {len(listed)} images have expert masks"):
        rows(len(listed) + 1, 0)


def test_a_second_run_makes_nothing(tiny_run, tiny_config, capsys):
    workdir, run = tiny_run
    before, scores = artifacts(workdir), (run / "scores.json").read_bytes()
    assert experiment.run(tiny_config, workdir) == run
    assert artifacts(workdir) == before
    assert (run / "scores.json").read_bytes() == scores
    assert ": making " not in capsys.readouterr().err


def test_a_profiled_or_deterministic_run_has_the_names_of_any_other(
    tiny_run, tiny_config, capsys, monkeypatch
):
    workdir, run = tiny_run
    config = tiny_config.copy_and_resolve_references()
    config.profile.update(steps="1:2", hlo=True)
    config.deterministic = True
    with pytest.raises(InputError, match=r"deterministic=True: too late.* XLA_FLAGS=--xla_gpu_determ"):
        experiment.run(config, workdir)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")  # as if set before JAX started
    before = artifacts(workdir)
    assert experiment.run(config, workdir) == run
    assert artifacts(workdir) == before
    assert "finished ones are not traced" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_expert_masks_alone_need_no_new_classifier(tiny_run, tiny_config, capsys):
    workdir, _ = tiny_run
    config = tiny_config.copy_and_resolve_references()
    config.update(p=1.0, pseudo="", pseudo_count=0)
    config.segmentation.options.dtype = "bfloat16"
    before = set(artifacts(workdir))
    experiment.run(config, workdir)
    assert {name.split("-")[0] for name in set(artifacts(workdir)) - before} == {"segmentation", "scores"}


def test_moco_trains_an_encoder_that_segmentations_start_from(tiny_run, tiny_config, capsys):
    workdir, _ = tiny_run
    pretraining = moco.get_config("seed=0")
    pretraining.encoder.model = "tiny"
    pretraining.moco.update(SMALL_MOCO)
    report = (experiment.run(same(pretraining, tiny_config), workdir) / "report.md").read_text()
    assert "chance, with 0 keys in the queue, is 0.000" in report  # of its single step
    assert "| MoCo, test | random weights, valid |" in re.sub(" +", " ", report)

    config = full.get_config("init=moco")
    config.encoder.model = "tiny"
    config.moco.update(SMALL_MOCO)
    capsys.readouterr()
    run = experiment.run(same(config, tiny_config), workdir)
    made = re.findall(r": making (\w+)", capsys.readouterr().err)
    assert made == ["segmentation", "scores"]
    card = json.loads((run / "model" / "model.json").read_text())
    assert card["normalisation"]["mean"] == [0.502] * 3


@pytest.fixture
def shallow(monkeypatch):
    """ResNets of one block a stage; returns a function that gives the peer's weights of one."""
    for name, bottleneck in (("resnet18", False), ("resnet50", True)):
        monkeypatch.setitem(ENCODERS, name, partial(ResNet, depths=(1, 1, 1, 1), bottleneck=bottleneck))
    monkeypatch.setattr(irnet, "ResNet50", ENCODERS["resnet50"])
    return lambda name: {
        key: value for key, value in weights(name).items() if not re.match(r"layer\d\.[1-9]", key)
    }


@pytest.mark.usefixtures("undrawn")
def test_imagenet_weights_bring_their_normalisation_and_stride(tiny_run, tiny_config, shallow, tmp_path):
    workdir, _ = tiny_run
    save_file(shallow("resnet18"), tmp_path / "resnet18.safetensors")
    config = full.get_config(f"init=imagenet,weights={tmp_path}")
    config.imagenet.stride_on = "conv1"
    run = experiment.run(same(config, tiny_config), workdir)
    card = json.loads((run / "model" / "model.json").read_text())
    assert (card["normalisation"]["mean"], card["options"]["stride_on"]) == (list(IMAGENET.mean), "conv1")
    config.imagenet.weights = str(tmp_path / "none")
    with pytest.raises(InputError, match=r"none: no such file or folder; download https://"):
        experiment.run(config, workdir)


def test_weights_that_are_missing_are_told_before_the_hours_of_the_classifiers(
    tiny_run, tiny_config, tmp_path
):
    workdir, _ = tiny_run
    config = semi.get_config(f"seed=5,count=6,pseudo=irnet,trunk=imagenet,weights={tmp_path / 'none'}")
    config.irnet.radius = 3
    before = set(artifacts(workdir))
    with pytest.raises(InputError, match="none: no such file or folder"):
        experiment.run(same(config, tiny_config), workdir)
    assert set(artifacts(workdir)) == before


def test_a_batch_that_the_devices_cannot_share_is_told_before_any_training(tiny_config, tmp_path):
    config = tiny_config.copy_and_resolve_references()
    config.segmentation.batch_size = 5
    with pytest.raises(
        InputError, match=r"config\.segmentation\.batch_size=5 does not divide over 2 devices"
    ):
        experiment.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_imported_network_takes_the_place_of_classifier_and_encoder(tiny_run, tiny_config, tmp_path):
    """One channel, inputs in [-1024, 1024], and three outputs with names and an order of their own."""
    workdir, _ = tiny_run
    labels = ("Hernia", "Cardiomegaly", "Effusion")
    taxonomy = Taxonomy(labels, ("Pleural Effusion", "Cardiomegaly"), {"Pleural Effusion": "Effusion"})
    variables = Tiny(3).init(jax.random.key(1), jnp.zeros((1, 32, 32, 1)))
    card = {"name": "tiny", "num_classes": 3, "options": {}, "size": 224, "tasks": labels}
    save_model(tmp_path, variables, **card, normalisation=XRV, taxonomy=taxonomy)
    config = semi.get_config(f"p=0.9,count=6,classifier={tmp_path},encoder_from={tmp_path}")
    config.cams.mirror = False
    before = set(artifacts(workdir))
    run = experiment.run(same(config, tiny_config), workdir)
    made = {name.rsplit("-", 1)[0]: workdir / "artifacts" / name for name in set(artifacts(workdir)) - before}
    assert made.keys() >= {"imported", "auroc", "cams", "pseudo-masks", "segmentation", "scores"}
    assert not [name for name in made if name.startswith(("classifier", "moco", "imagenet", "probe"))]
    assert f"the saliency classifier from `{tmp_path}`, an imported tiny" in (run / "report.md").read_text()
    assert chexseg_jax.restore(run).normalisation == XRV  # the encoder's

    spoken = np.isin(TASKS, taxonomy.tasks)
    aurocs = json.loads((made["auroc"] / "auroc.json").read_text())
    assert {task for scores in aurocs.values() for task, value in scores.items() if value} <= {
        *taxonomy.tasks
    }
    pseudo = Prepared.load(made["pseudo-masks"])
    assert not pseudo.known[:, ~spoken].any()
    assert pseudo.known[:, spoken].any()
    model = chexseg_jax.restore(made["imported"])
    _, expected = grad_cam(model.module, variables, normalise(jnp.asarray(pseudo.images[:]), XRV))
    every = [
        Records.open(path / "maps")[:] for path in workdir.glob("artifacts/cams-*") if path.name not in before
    ]
    maps = next(maps for maps in every if len(maps) == len(pseudo))
    assert (maps[..., ~spoken] == 0).all()
    np.testing.assert_allclose(
        maps[..., TASKS.index("Pleural Effusion")],
        expected[..., labels.index("Effusion")],
        rtol=1e-3,
        atol=1e-3,
    )


def same(config, tiny_config):
    """`config` on `tiny_config`'s data, as small."""
    for section in {"phantom", "data", "segmentation", "scores"} & set(config):
        config[section].update(tiny_config[section].to_dict())
    return config


def test_irnet_walks_from_the_same_cams(tiny_run, tiny_config, shallow, capsys, tmp_path):
    workdir, _ = tiny_run
    config = tiny_config.copy_and_resolve_references()
    config.p, config.pseudo = 0.5, "irnet"
    config.trunk_init = "imagenet"
    save_file(shallow("resnet50"), tmp_path / "resnet50.safetensors")
    config.imagenet.weights = str(tmp_path)
    config.irnet.update(batch_size=2, steps=2, radius=3, dtype="bfloat16")
    before = set(artifacts(workdir))
    run = experiment.run(config, workdir)
    made = {name.rsplit("-", 1)[0] for name in set(artifacts(workdir)) - before}
    assert made == {"imagenet-resnet50", "cams", "irnet", "walks", "pseudo-masks", "segmentation", "scores"}
    assert "reusing cams" in capsys.readouterr().err
    assert (run / "saliency.png").stat().st_size > 0
    for walks in workdir.glob("artifacts/walks-*"):
        maps, edges = (Records.open(walks / name)[:] for name in ("maps", "edges"))
        assert maps.shape == (*edges.shape, 10)
        assert maps.shape[1:3] == (8, 8)
        assert (maps >= 0).all()
        assert ((edges > 0) & (edges < 1)).all()
    (network,), (trunk,) = workdir.glob("artifacts/irnet-*"), workdir.glob("artifacts/imagenet-resnet50-*")
    trained, given = (chexseg_jax.restore(path).variables for path in (network, trunk))
    assert np.abs(trained["batch_stats"]["fc_dp7_4"]["mean"]).max() > 0
    for collection in ("params", "batch_stats"):  # the trunk stays frozen
        theirs = {name: value for name, value in given[collection].items() if name != "fc"}
        jax.tree.map(np.testing.assert_array_equal, trained[collection]["resnet50"], theirs)


def test_the_run_restores_and_predicts_what_it_reported(tiny_run):
    workdir, run = tiny_run
    model = chexseg_jax.restore(run)
    assert model.tasks == TASKS
    assert set(model.thresholds) == set(TASKS)
    predictions = read_segmentations(run / "predictions.json")
    image_id = predictions.ids[0]
    patient, study, *view = image_id.split("_")
    (path,) = workdir.glob(f"artifacts/phantom-*/data/*/test/{patient}/{study}/{'_'.join(view)}.jpg")
    image = read_grey(path)
    limits = np.array([model.thresholds[task] for task in TASKS])
    masks = unfit_map(model.predict([image])[0], image.shape) > limits
    wrong = (masks != predictions.masks(image_id)).mean()
    assert wrong < 1e-3  # another batch size moves a pixel at the threshold, no more
