import numpy as np
import pytest

from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.phantom import render


@pytest.mark.parametrize("lateral", [False, True])
def test_a_view_is_a_grey_picture_with_ten_masks_of_its_size(view, lateral):
    drawn = render(view(*TASKS, lateral=lateral))
    assert drawn.image.dtype == np.uint8
    assert tuple(drawn.masks) == TASKS
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


def test_a_patient_keeps_the_anatomy_and_findings_over_views_of_a_study(view):
    one, two = (render(view("Pleural Effusion", number=number, ap=False)) for number in (1, 2))
    assert not np.array_equal(one.image[:99, :99], two.image[:99, :99])
    assert one.scene.places == two.scene.places
    sides = [np.sign(np.median(drawn.scene.u[drawn.masks["Pleural Effusion"]])) for drawn in (one, two)]
    assert sides[0] == sides[1]


def test_patients_differ(view):
    shown = [view(patient=patient).who() for patient in range(1, 30)]
    assert len({patient.width for patient in shown}) == 29
    assert {patient.sex for patient in shown} == {"Male", "Female"}
