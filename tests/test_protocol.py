"""The published protocol: what the configurations at the paper's scale run, row by row of docs/protocol.md.

The runs are planned, on a small phantom laid out as the downloads: every stage's inputs are recorded, none is computed.
"""

import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chexseg_jax import experiment
from chexseg_jax.artifact import Store
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.errors import InputError
from chexseg_jax.experiment import Run
from chexseg_jax.models.normalisation import CHEXPERT
from chexseg_jax.pseudo import LABELLERS
from chexseg_jax.settings import Setting, Trial, trials
from chexseg_jax.stages import imagenet
from chexseg_jax.stages.segmentation import resolve
from configs import classifier, full, moco, semi, table1, table2, weak


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(work directory, argument) of runs at the paper's scale, on radiographs and ImageNet's weights beside it."""
    from chexseg_jax import phantom

    folder = tmp_path_factory.mktemp("protocol")
    phantom.make(folder / "cxr", train=8, valid=8, test=4, size=64, seed=5)
    (folder / "weights").mkdir()
    for model in ("resnet18", "resnet50", "densenet121"):
        (folder / "weights" / f"{model}.pth").write_bytes(model.encode())
    return folder / "work", f"root={folder / 'cxr'}"


@pytest.fixture
def plan(prepared, monkeypatch):
    """Plan a run: a function from (config file, arguments) to {stage's function: [its inputs]}."""
    workdir, common = prepared
    monkeypatch.setattr(imagenet, "torchvision_cache", lambda: workdir.parent / "weights")

    def planned(file, arguments="", **changes):
        config = file.get_config(f"{common},{arguments}" if arguments else common)
        config.data.validation = 0.25
        config.update_from_flattened_dict(changes)
        calls = defaultdict(list)
        one, make = Run.open(config, workdir), Store.make

        def record(store, name, stage, *, version=1, collective=False, apart=None, **inputs):
            path = make(store, name, stage, version=version, **inputs)
            calls[stage.__name__].append(SimpleNamespace(path=path, **inputs))
            return path

        with monkeypatch.context() as patch:
            patch.setattr(Store, "make", record)
            one.plan()
        return calls

    return planned


def started_from(call, model) -> bool:
    return call.start is not None and call.start.name.startswith(f"imagenet-{model}-")


def test_images():
    config = semi.get_config("scale=paper")
    assert (config.data.size, config.data.views) == (320, "both")
    assert set(CHEXPERT.mean) == {0.502}
    assert set(CHEXPERT.std) == {0.085585}


def test_the_classifier_starts_from_imagenet(plan):
    densenet, resnet = plan(semi, "count=4")["train_classifier"]
    assert (densenet.config.model, resnet.config.model) == ("densenet121", "resnet18")
    for one in (densenet, resnet):
        config = one.config
        assert (config.batch_size, config.epochs, config.learning_rate) == (16, 3.0, 1e-4)
        assert (config.decay, config.warmup_share, config.augment) == (False, 0.0, False)
        assert config.checkpoint_every == 4800
        assert started_from(one, config.model)
        assert one.weak.name.startswith("prepare-train-")


@pytest.mark.parametrize(
    ("file", "argument"),
    [
        (semi, "classifier_start"),
        (semi, "encoder_start"),
        (moco, "moco_start"),
        (classifier, "classifier_start"),
    ],
)
def test_random_weights_are_a_choice_that_is_made(file, argument):
    def starts(arguments):
        config = file.get_config(arguments)
        return [config[section].start for section in ("classifier", "encoder", "trunk", "moco")]

    assert set(starts("scale=paper")) == {"imagenet"}
    assert "random" in starts(f"scale=paper,{argument}=random")
    assert set(starts("scale=laptop")) == {"random"}


def test_missing_weights_are_listed_at_once_before_anything_is_prepared(prepared, monkeypatch, tmp_path):
    monkeypatch.setattr(imagenet, "torchvision_cache", lambda: tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    config = semi.get_config(prepared[1])
    with pytest.raises(InputError) as error:
        Run.open(config, tmp_path / "work")
    told = str(error.value)
    for expected in (
        "densenet121-a639ec97.pth",
        "classifier_start=random",
        "resnet18",
        "encoder_start=random",
    ):
        assert expected in told
    assert "\n" not in told
    assert not (tmp_path / "work").exists()


def test_saliency_is_grad_cam_of_the_classifier_tuned_on_expert_training_images(plan):
    calls = plan(semi, "count=4")
    masks = calls["make_pseudo_masks"][0]
    assert (masks.threshold, masks.gate) == ("tuned", True)
    assert not set(masks.expert_rows) & set(calls["train_segmentation"][0].validation_rows)
    for cams in calls["make_cams"]:
        assert (cams.config.plus_plus, cams.config.mirror) == (False, False)
        assert cams.classifier.name.startswith("classifier-densenet121-")


def test_uncertain_labels_are_ignored(plan):
    calls = plan(semi, "count=4")
    assert {calls["train_classifier"][0].uncertainty, calls["make_pseudo_masks"][0].uncertainty} == {"ignore"}


def test_irnet_is_trained_once_on_a_frozen_imagenet_trunk(plan):
    large = {"irnet.count": 6}
    trials = [plan(semi, f"pseudo=irnet,count=3,trial={trial}", **large) for trial in (0, 1)]
    first, second = (calls["train_irnet"][0] for calls in trials)
    assert first.path == second.path
    assert (first.trunk.name.startswith("imagenet-resnet50-"), len(first.rows)) == (True, 6)
    config = first.config
    assert (config.learning_rate, config.displacement_rate, config.batch_size) == (0.1, 10.0, 16)
    assert (config.foreground, config.background, config.decay_power) == (0.3, 0.05, 0.9)
    assert semi.get_config("scale=paper,pseudo=irnet").irnet.count == 20000
    drawn = [calls["make_pseudo_masks"][0].weak_rows for calls in trials]
    assert [len(rows) for rows in drawn] == [3, 3]
    assert set(drawn[0]) != set(drawn[1])
    assert (set(drawn[0]) | set(drawn[1])) <= set(first.rows)


def test_the_walk_is_chexsegs_and_pascals_has_a_name():
    def walk(arguments):
        config = semi.get_config(f"scale=paper,pseudo=irnet{arguments}").walk
        return config.radius, config.beta, config.exp_times, config.instances

    assert walk("") == (3, 5, 3, False)
    assert walk(",walk=pascal") == (5, 10, 8, True)
    assert LABELLERS["irnet"].threshold == 0.6


@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_a_seed_spreads_over_five_percent_of_the_side(scale):
    from chexseg_jax.irnet.random_walk import propagate

    config = semi.get_config(f"scale={scale},pseudo=irnet")
    side = config.data.size // 4
    start = np.zeros((side, side, 1), np.float32)
    start[side // 2, side // 2] = 1
    walk = {key: config.walk[key] for key in ("radius", "beta", "exp_times")}
    end = np.asarray(propagate(start, np.zeros((side, side), np.float32), **walk))[..., 0]
    spread = np.sqrt((end.sum(1) * (np.arange(side) - side // 2) ** 2).sum() / end.sum())
    assert spread / side == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(
    ("experts", "pseudo", "steps"),
    [(147, 0, 380), (147, 100, 620), (0, 100, 260), (0, 2000, 5000), (0, 20000, 50000)],
)
def test_segmentation_runs_twenty_epochs_of_all_its_images(experts, pseudo, steps):
    for config in (semi.get_config("scale=paper"), table1.get_config("scale=paper"), table2.get_config()):
        assert updates(config, experts + pseudo) == steps
    assert updates(semi.get_config(), experts + pseudo) == 200  # a laptop's single run


def updates(config, images):
    return resolve(config.segmentation, images=images, epoch=images).steps


def test_an_epoch_counts_the_sets_that_are_drawn_from_or_on_the_other_clock_both(plan):
    def steps(config, arguments="", clock="epochs", **more):
        more["segmentation.batch_size"] = 2
        (one,) = plan(config, arguments, clock=clock, **more)["train_segmentation"]
        return one.config.steps

    def epochs(images):
        return 20 * -(-images // 2)

    experts = len(plan(full)["train_segmentation"][0].train_rows)
    both = epochs(experts + 4)
    assert steps(full) == epochs(experts)
    assert steps(semi, "count=4") == steps(semi, "count=4", "steps") == both
    assert steps(weak, "count=4") == epochs(4)
    assert steps(weak, "count=4", "steps") == steps(full, "", "steps", pseudo_count=4) == both


def test_the_rate_is_that_of_the_images_drawn_from_on_both_clocks():
    """1e-3 on small sets, 1e-4 on large; p = 1 beside a large mixture differs in its updates alone."""
    section = full.get_config("scale=paper").segmentation
    assert resolve(section, images=147, epoch=147).learning_rate == 1e-3
    assert resolve(section, images=147, epoch=2147).learning_rate == 1e-3
    assert resolve(section, images=2147, epoch=2147).learning_rate == 1e-4


def test_equal_trainings_have_equal_names(plan):
    """With `segmentation.steps` the clocks do not differ."""
    runs = [
        plan(full, "", clock=clock, pseudo_count=4, **{"segmentation.steps": 7})["train_segmentation"][0]
        for clock in ("epochs", "steps")
    ]
    assert runs[0].config == runs[1].config


def test_a_tables_equal_steps_are_those_of_its_mixtures(plan):
    table = table1.get_config("scale=paper")
    ends = [trial.setting for trial in trials(table) if trial.setting.clock == "steps"]
    assert set(ends) == {
        Setting(0.0, "chexpert", "cam", 100, clock="steps"),
        Setting(0.0, "chexpert", "irnet", 100, clock="steps"),
        Setting(1.0, "chexpert", "", 100, clock="steps"),
    }
    one = Trial(ends[-1], 0).config(table)
    assert (one.p, one.pseudo, one.pseudo_count, one.clock) == (1.0, "", 100, "steps")


def test_segmentation_is_the_published_one(plan):
    one = plan(semi, "count=4")["train_segmentation"][0]
    config = one.config
    assert (config.decoder, one.encoder, one.p) == ("deeplabv3plus", "resnet18", 0.9)
    assert (config.batch_size, config.decay, config.warmup_share, config.augment) == (8, False, 0.0, False)
    assert config.learning_rate == 1e-3  # on a small set
    assert one.start.name.startswith("classifier-resnet18-")


def test_who_trains_on_what(plan):
    strong, mixed, alone = plan(full), plan(semi, "count=4"), plan(weak, "count=4")
    assert strong["train_segmentation"][0].pseudo is None
    assert "make_pseudo_masks" not in strong
    assert mixed["train_segmentation"][0].pseudo.name.startswith("pseudo-masks-")
    assert (strong["train_segmentation"][0].p, alone["train_segmentation"][0].p) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("init", "start"),
    [("random", None), ("imagenet", "imagenet"), ("moco", "moco"), ("chexpert", "classifier")],
)
def test_initialisations(plan, init, start):
    calls = plan(full, f"init={init}")
    made = calls["train_segmentation"][0].start
    assert (made.name.split("-")[0] if made else None) == start
    if init == "moco":
        assert started_from(calls["pretrain_moco"][0], "resnet18")


def test_scores():
    config = semi.get_config("scale=paper")
    assert config.scores.bootstrap == 1000


def test_no_two_trainings_of_a_chain_share_a_stream(plan):
    calls = plan(semi, "pseudo=irnet,trunk=chexpert,count=3,init=moco")
    trainings = ("train_classifier", "pretrain_moco", "train_irnet", "train_segmentation")
    seeds = [call.seed for name in trainings for call in calls[name]]
    assert len(seeds) == 5  # two classifiers, MoCo, IRNet and the segmentation
    assert len(set(seeds)) == len(seeds)


def test_a_trial_of_one_seed_is_no_trial_of_another(plan):
    one, other = (plan(semi, f"count=3,seed={seed},trial={trial}") for seed, trial in ((0, 1), (1, 0)))
    for stage in ("train_segmentation", "make_pseudo_masks"):
        assert one[stage][0].path != other[stage][0].path
    assert one["train_segmentation"][0].seed != other["train_segmentation"][0].seed


def test_a_run_at_the_papers_scale_reaches_its_report(prepared, tiny_config, tmp_path):
    """docs/protocol.md has the command at full size."""
    config = semi.get_config(f"{prepared[1]},count=4,classifier_start=random,encoder_start=random")
    config.data.update(size=32, validation=0.25)
    for name in ("classifier", "encoder"):
        with config.unlocked():
            config[name] = tiny_config[name].copy_and_resolve_references()
    config.segmentation.update(steps=2, batch_size=4, checkpoint_every=2)
    run = experiment.run(config, tmp_path)
    assert "paper scale" in (run / "report.md").read_text()
    (weak,) = (tmp_path / "artifacts").glob("prepare-train-*")
    views = {name.rsplit("_", 1)[-1] for name in Prepared.load(weak).ids}
    assert views == {"frontal", "lateral"}


def test_the_prepared_set_is_at_the_papers_size(plan, prepared):
    plan(full)
    (train,) = (
        path for path in (prepared[0] / "artifacts").glob("prepare-train-*") if path.suffix != ".part"
    )
    assert Prepared.load(Path(train)).size == 320
