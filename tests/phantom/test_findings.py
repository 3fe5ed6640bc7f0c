"""Masks are exact and lie where the pathology does: removing a finding changes the image only within its mask."""

import numpy as np
import pytest
from scipy import ndimage

from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.phantom import render
from chexseg_jax.phantom.findings import EDGE

PATIENTS = range(1, 7)


@pytest.mark.parametrize("lateral", [False, True], ids=["frontal", "lateral"])
@pytest.mark.parametrize("task", CHEXPERT.tasks)
def test_a_finding_changes_the_image_only_within_its_mask(view, task, lateral):
    for patient in PATIENTS:
        drawn = render(view(task, patient=patient, lateral=lateral))
        healthy = render(view(patient=patient, lateral=lateral))
        mask = drawn.masks[task]
        added = np.abs(drawn.attenuation - healthy.attenuation)
        peak = np.percentile(added[mask], 95)
        near, wide = (ndimage.binary_dilation(mask, iterations=n) for n in (2, 10))
        assert added[~near].max() < 1.3 * EDGE * peak
        assert added[~wide].max() < 0.7 * EDGE * peak
        change = np.abs(drawn.image.astype(int) - healthy.image)
        assert change[mask].mean() > 6 * change[~near].mean()
        assert change[mask].mean() > 8  # of 255 grey levels: visible


@pytest.mark.parametrize(
    "task", sorted({*CHEXPERT.tasks} - {"Airspace Opacity", "Atelectasis", "Consolidation", "Edema"})
)
def test_only_the_drawn_task_has_a_mask(view, task):
    masks = render(view(task)).masks
    assert [name for name, mask in masks.items() if mask.any()] == [task]


@pytest.mark.parametrize("kind", ["Atelectasis", "Consolidation", "Edema"])
def test_airspace_opacity_contains_its_kinds(view, kind):
    masks = render(view(kind, "Airspace Opacity")).masks
    alone = render(view("Airspace Opacity")).masks["Airspace Opacity"]
    np.testing.assert_array_equal(masks["Airspace Opacity"], masks[kind] | alone)


def test_findings_are_independent(view):
    some = render(view("Pneumothorax", "Lung Lesion")).masks
    more = render(view("Pneumothorax", "Lung Lesion", "Cardiomegaly", "Support Devices")).masks
    for task in ("Pneumothorax", "Lung Lesion"):
        np.testing.assert_array_equal(some[task], more[task])


def _masks_and_scenes(view, task):
    for patient in PATIENTS:
        drawn = render(view(task, patient=patient))
        yield drawn.masks[task], drawn.scene


def test_an_effusion_lies_below_mid_lung_in_the_visible_lung_and_reaches_the_angle(view):
    for mask, scene in _masks_and_scenes(view, "Pleural Effusion"):
        assert not (mask & ~scene.field).any()
        assert scene.y[mask].min() > 0.3
        assert np.median(scene.y[mask]) > 0.7
        assert scene.x[mask].max() > 0.9


def test_a_pneumothorax_touches_the_wall_on_one_side_and_reaches_the_apex(view):
    for mask, scene in _masks_and_scenes(view, "Pneumothorax"):
        assert not (mask & ~scene.field).any()
        assert np.unique(np.sign(scene.u[mask])).size == 1
        assert scene.wall[mask].min() < 0.05
        assert scene.wall[mask].max() < 0.6
        assert scene.y[mask].min() < 0.1


def test_a_pneumothorax_is_darker_and_has_no_vessels(view):
    drawn, healthy = render(view("Pneumothorax")), render(view())
    inside = ndimage.binary_erosion(drawn.masks["Pneumothorax"], iterations=3)
    assert (drawn.attenuation[inside] < healthy.attenuation[inside]).all()


def test_edema_is_on_both_sides_around_the_hila(view):
    for mask, scene in _masks_and_scenes(view, "Edema"):
        left, right = mask[scene.u > 0].sum(), mask[scene.u < 0].sum()
        assert min(left, right) > 0.35 * max(left, right)


def test_atelectasis_is_basal(view):
    for mask, scene in _masks_and_scenes(view, "Atelectasis"):
        assert np.median(scene.y[mask]) > 0.6


def test_cardiomegaly_widens_the_heart_past_half_the_chest(view):
    def ratio(drawn):
        columns = drawn.scene.u[drawn.scene.heart]
        return (columns.max() - columns.min()) / (2 * drawn.scene.patient.width)

    for patient in PATIENTS:
        healthy, large = render(view(patient=patient)), render(view("Cardiomegaly", patient=patient))
        assert ratio(healthy) < 0.53
        assert ratio(large) > 0.55
        assert not (healthy.scene.heart & ~large.scene.heart).any()
        np.testing.assert_array_equal(large.masks["Cardiomegaly"], large.scene.heart)


def test_an_enlarged_mediastinum_is_wider_above_the_heart(view):
    for patient in PATIENTS:
        scene = render(view(patient=patient)).scene
        above = (scene.v > -0.8) & (scene.v < -0.4)
        mask = render(view("Enlarged Cardiomediastinum", patient=patient)).masks["Enlarged Cardiomediastinum"]
        assert (mask & above).sum() > 1.4 * (scene.cardiomediastinum & above).sum()
        assert not (scene.cardiomediastinum & ~mask).any()


def test_the_largest_lesion_has_the_size_of_a_nodule_or_mass(view):
    for mask, _ in _masks_and_scenes(view, "Lung Lesion"):
        pieces, _ = ndimage.label(mask)
        widest = max(box[1].stop - box[1].start for box in ndimage.find_objects(pieces))
        assert 0.03 < widest / mask.shape[1] < 0.16


def test_conspicuity_scales_what_findings_add(view):
    healthy = render(view()).attenuation
    added = [
        np.abs(render(view("Lung Lesion", conspicuity=factor)).attenuation - healthy).max()
        for factor in (0.5, 1.0)
    ]
    assert added[0] == pytest.approx(0.5 * added[1], rel=1e-3)
