from collections import defaultdict
from itertools import chain

import pytest

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom.plan import FIRST_PATIENT, OCCURRENCE, SCARCE, plan, plan_splits


def plan_one(split, images, seed=0):
    return plan(split, images, first=FIRST_PATIENT[split], seed=seed)


@pytest.mark.parametrize(("split", "images"), [("train", 500), ("valid", 200), ("test", 150)])
@pytest.mark.parametrize("seed", range(3))
def test_every_task_has_positives_at_laptop_scale(split, images, seed):
    views = plan_one(split, images, seed)
    assert len(views) == images
    for task in CHEXPERT.tasks:
        positives = sum(task in view.present for view in views if not view.lateral)
        assert positives >= 8, task


def test_prevalence_follows_the_table():
    views = plan_one("train", 3000)
    studies = {(view.patient, view.study): view.findings for view in views}
    for task, occurrence in OCCURRENCE.items():
        share = sum(task in findings for findings in studies.values()) / len(studies)
        assert share == pytest.approx(max(occurrence.train, SCARCE), abs=0.002)
    opacity = sum("Airspace Opacity" in view.present for view in views) / len(views)
    clean = sum(not (view.present - {"Support Devices"}) for view in views) / len(views)
    assert 0.42 < opacity < 0.55
    assert 0.15 < clean < 0.30
    assert 0.05 < sum(view.lateral for view in views) / len(views) < 0.15


def test_signs_of_heart_failure_co_occur():
    views = plan_one("train", 2000, seed=1)
    edema = [("Cardiomegaly" in view.findings) for view in views if "Edema" in view.findings]
    others = [("Cardiomegaly" in view.findings) for view in views if "Edema" not in view.findings]
    assert sum(edema) / len(edema) > 2 * sum(others) / len(others)


@pytest.mark.parametrize("images", [(200, 200, 200), (90, 300, 150), (130000, 300, 40)])
def test_splits_share_no_patient(images):
    views = plan_splits(dict(zip(FIRST_PATIENT, images, strict=True)), seed=0)
    splits = defaultdict(set)
    for view in views:
        splits[view.patient].add(view.split)
    assert all(len(names) == 1 for names in splits.values())
    assert len({view.id for view in views}) == len(views) == sum(images)


def test_views_of_a_study_share_its_findings_and_files_are_named_as_in_chexpert():
    splits = {split: plan_one(split, 200) for split in FIRST_PATIENT}
    assert plan_splits(dict.fromkeys(splits, 200), seed=0) == list(chain.from_iterable(splits.values()))
    studies = defaultdict(set)
    for view in splits["train"]:
        studies[view.patient, view.study].add(view.findings)
    assert all(len(findings) == 1 for findings in studies.values())
    assert max(study for _, study in studies) > 1
    assert splits["train"][0].path == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    assert splits["test"][0].id == "patient64741_study1_view1_frontal"
