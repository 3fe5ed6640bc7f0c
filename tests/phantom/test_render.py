import numpy as np
import pytest

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom import render


@pytest.mark.parametrize("lateral", [False, True])
def test_a_view_is_a_grey_image_with_a_mask_per_task(view, lateral):
    drawn = render(view(*CHEXPERT.tasks, lateral=lateral))
    assert drawn.image.dtype == np.uint8
    assert tuple(drawn.masks) == CHEXPERT.tasks
    assert all(mask.shape == drawn.image.shape and mask.dtype == bool for mask in drawn.masks.values())
    assert min(drawn.image.shape) == 128
    assert all(mask.any() for mask in drawn.masks.values())


def test_lungs_are_darker_than_heart_and_abdomen(view):
    for patient in range(1, 9):
        drawn = render(view(patient=patient))
        scene = drawn.scene
        lung = np.median(drawn.image[scene.air > 0.5])
        heart = np.median(drawn.image[scene.heart])
        abdomen = np.median(drawn.image[(scene.v > 0.85) & (np.abs(scene.u) < 0.5)])
        assert lung + 40 < heart < abdomen + 5
        assert 30 < lung < 170


def test_views_of_a_study_share_anatomy_and_findings(view):
    one, two = (render(view("Pleural Effusion", number=number, ap=False)) for number in (1, 2))
    assert not np.array_equal(one.image[:99, :99], two.image[:99, :99])
    assert one.scene.patient == two.scene.patient
    sides = [np.sign(np.median(drawn.scene.u[drawn.masks["Pleural Effusion"]])) for drawn in (one, two)]
    assert sides[0] == sides[1]


def test_patients_differ(view):
    patients = [view(patient=patient).sample_patient() for patient in range(1, 30)]
    assert len({patient.width for patient in patients}) == 29
    assert {patient.sex for patient in patients} == {"Male", "Female"}
