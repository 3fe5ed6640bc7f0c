from collections import defaultdict
from itertools import chain

import pytest

from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.phantom.plan import PREVALENCE, SCARCE, plan, plan_splits


@pytest.mark.parametrize(("split", "images"), [("train", 500), ("valid", 200), ("test", 150)])
@pytest.mark.parametrize("seed", range(3))
def test_every_task_has_its_positives_at_laptop_size(split, images, seed):
    shots = plan(split, images, seed)
    assert len(shots) == images
    for task in TASKS:
        positives = sum(task in shot.present for shot in shots if not shot.lateral)
        assert positives >= 8, task


def test_prevalence_is_what_the_table_says():
    shots = plan("train", 3000, 0)
    studies = {(shot.patient, shot.study): shot.findings for shot in shots}
    for task, (share, _) in PREVALENCE.items():
        assert sum(task in found for found in studies.values()) / len(studies) == pytest.approx(
            max(share, SCARCE), abs=0.002
        )
    opacity = sum("Airspace Opacity" in shot.present for shot in shots) / len(shots)
    clean = sum(not (shot.present - {"Support Devices"}) for shot in shots) / len(shots)
    assert 0.42 < opacity < 0.55
    assert 0.15 < clean < 0.30
    assert 0.05 < sum(shot.lateral for shot in shots) / len(shots) < 0.15


def test_heart_failure_comes_together():
    shots = plan("train", 2000, 1)
    edema = [("Cardiomegaly" in shot.findings) for shot in shots if "Edema" in shot.findings]
    others = [("Cardiomegaly" in shot.findings) for shot in shots if "Edema" not in shot.findings]
    assert sum(edema) / len(edema) > 2 * sum(others) / len(others)


@pytest.mark.parametrize("images", [(200, 200, 200), (90, 300, 150), (130000, 300, 40)])
def test_splits_share_no_patient(images):
    shots = plan_splits(dict(zip(("train", "valid", "test"), images, strict=True)), 0)
    splits = defaultdict(set)
    for shot in shots:
        splits[shot.patient].add(shot.split)
    assert all(len(its) == 1 for its in splits.values())
    assert len({shot.id for shot in shots}) == len(shots) == sum(images)


def test_views_of_a_study_have_its_findings_and_files_have_chexperts_names():
    splits = {split: plan(split, 200, 0) for split in ("train", "valid", "test")}
    assert plan_splits(dict.fromkeys(splits, 200), 0) == list(chain.from_iterable(splits.values()))
    studies = defaultdict(set)
    for shot in splits["train"]:
        studies[shot.patient, shot.study].add(shot.findings)
    assert all(len(findings) == 1 for findings in studies.values())
    assert max(study for _, study in studies) > 1
    assert splits["train"][0].path == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    assert splits["test"][0].id == "patient64741_study1_view1_frontal"
