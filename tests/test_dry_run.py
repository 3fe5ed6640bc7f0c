"""The plan of a configuration."""

import json
import re
import shutil

import pytest
from tiny import he_weights

from chexseg_jax import models
from chexseg_jax.dry_run import describe
from chexseg_jax.errors import DamagedError, InputError
from chexseg_jax.models.normalisation import IMAGENET
from chexseg_jax.models.torch_weights.__main__ import main as export
from chexseg_jax.saved_model import save_model
from configs import classifier, label_efficiency, moco, semi, table1

FILE = semi.__file__


def states(plan: str) -> dict[str, str]:
    """Stage -> its state, as the plan shows them."""
    return dict(re.findall(r"^(\S+) +(\d+ \S[\w ,]*?)  +\S", plan, re.MULTILINE))


def test_a_finished_run_has_nothing_to_do(tiny_run, tiny_config):
    workdir, _ = tiny_run
    before = sorted(path for path in workdir.rglob("*") if "xla_cache" not in str(path))
    plan = describe(tiny_config, workdir, FILE)
    made = [path for path in (workdir / "artifacts").glob("*-*") if path.suffix != ".part"]
    assert f"To do: 0 of {len(made)} stages." in plan  # every artifact of the run, and no other
    assert not [state for state in states(plan).values() if "to do" in state]
    assert sorted(path for path in workdir.rglob("*") if "xla_cache" not in str(path)) == before


def test_another_trial_reuses_the_classifiers_and_takes_as_long(tiny_run, tiny_config):
    workdir, _ = tiny_run
    config = tiny_config.copy_and_resolve_references()
    config.trial = 1
    plan = describe(config, workdir, FILE)
    assert states(plan)["classifier-tiny"] == "1 finished"
    assert states(plan)["segmentation"] == "1 to do"
    assert states(plan)["cams"] == "1 to do, 1 finished"
    card = json.loads(next((workdir / "artifacts").glob("segmentation-*/artifact.json")).read_text())
    assert re.search(rf"^segmentation .* {card['seconds']:.0f} s$", plan, re.MULTILINE)


def test_a_damaged_record_is_named(tiny_run, tiny_config, tmp_path):
    workdir = shutil.copytree(tiny_run[0] / "artifacts", tmp_path / "work/artifacts").parent
    (card,) = (workdir / "artifacts").glob("segmentation-*/artifact.json")
    card.write_text(card.read_text()[:40])
    with pytest.raises(DamagedError, match=rf"{card}: truncated or corrupt .* delete {card.parent}"):
        describe(tiny_config, workdir, FILE)


def test_a_killed_stage_is_said_to_have_begun(tiny_run, tiny_config, tmp_path):
    workdir = shutil.copytree(tiny_run[0] / "artifacts", tmp_path / "work/artifacts").parent
    (model,) = (workdir / "artifacts").glob("segmentation-*")
    model.rename(f"{model}.part")
    assert states(describe(tiny_config, workdir, FILE))["segmentation"] == "1 begun"


@pytest.mark.parametrize(
    ("config", "stages", "number"),
    [
        (semi.get_config("smoke"), "phantom prepare-test classifier-resnet18 cams segmentation scores", 11),
        (semi.get_config("smoke,pseudo=irnet,p=0"), "classifier-resnet50 irnet walks pseudo-masks", 16),
        (classifier.get_config("smoke"), "classifier-resnet18 auroc", 6),
        (moco.get_config("smoke"), "moco-resnet18 probe", 7),
    ],
    ids=["semi", "irnet", "classifier", "moco"],
)
def test_without_prepared_data_every_stage_is_named(config, stages, number, tmp_path):
    plan = describe(config, tmp_path / "none", FILE)
    assert set(stages.split()) <= set(states(plan))
    assert f"To do: {number} of {number} stages." in plan
    assert "The data is not prepared" in plan
    assert "minutes" in plan
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("as_file", [False, True])
def test_an_imported_classifier_leaves_its_trainings_out(as_file, tmp_path):
    model = models.create("resnet18", num_classes=2)
    card = {"name": "resnet18", "num_classes": 2, "options": {}, "size": 64, "normalisation": IMAGENET}
    given = tmp_path / "given"
    save_model(given, he_weights(model), **card, tasks=("Edema", "Cardiomegaly"))
    if as_file:
        export([str(given), str(given.with_suffix(".npz"))])
        given = given.with_suffix(".npz")
    config = semi.get_config(f"classifier={given},encoder_from={given}")
    plan = describe(config, tmp_path / "none", FILE)
    assert states(plan)["imported"] == "1 to do"
    assert (
        f"the saliency classifier from `{given}`, an imported resnet18" in plan
    )  # configs have a DenseNet121
    assert not [stage for stage in states(plan) if stage.startswith("classifier")]
    assert "To do: 11 of 11 stages." in plan
    assert not (tmp_path / "none").exists()


def test_a_table_names_each_shared_stage_once(tmp_path):
    config = table1.get_config("smoke")
    plan = describe(config, tmp_path, table1.__file__)
    assert states(plan)["classifier-resnet18"] == "1 to do"
    assert (
        states(plan)["segmentation"] == "14 to do"
    )  # of 20 runs: with a number of steps, both clocks are one
    config.shard = "1/2"
    assert (
        states(describe(config, tmp_path, table1.__file__))["segmentation"] == "7 to do"
    )  # both clocks of a training


def test_missing_inputs_stop_the_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match="no such"):
        describe(semi.get_config(f"root={tmp_path}/none,scale=laptop"), tmp_path, FILE)


def test_runs_of_a_table_that_will_fail_are_counted_and_the_others_planned(tiny_run, tiny_config):
    config = label_efficiency.get_config("smoke")
    with config.unlocked():
        for section in ("phantom", "data", "classifier", "encoder", "segmentation", "scores"):
            config[section] = tiny_config[section]
    config.grid.update(count=(6,), experts=(40, 0), clock=("epochs",))
    plan = describe(config, tiny_run[0], label_efficiency.__file__)
    assert re.search(
        r"^4 runs will fail: config.experts=40: only \d+ images have expert masks; give fewer", plan, re.M
    )
    assert sum(map(int, re.findall(r"\d+", states(plan)["segmentation"]))) == 4
