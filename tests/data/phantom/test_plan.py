from collections import defaultdict

import pytest

from chexseg_jax.data.phantom.plan import PREVALENCE, SCARCE, plan
from chexseg_jax.pathologies import TASKS


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


def test_patients_are_not_shared_and_views_of_a_study_have_its_findings():
    splits = {split: plan(split, 200, 0) for split in ("train", "valid", "test")}
    patients = [{shot.patient for shot in shots} for shots in splits.values()]
    assert len(set.union(*patients)) == sum(map(len, patients))
    studies = defaultdict(set)
    for shot in splits["train"]:
        studies[shot.patient, shot.study].add(shot.findings)
    assert all(len(findings) == 1 for findings in studies.values())
    assert max(study for _, study in studies) > 1
    assert splits["train"][0].path == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    assert splits["test"][0].id == "patient64741_study1_view1_frontal"
