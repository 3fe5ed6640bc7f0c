import numpy as np
import pytest

from chexseg_jax.predict.trust import doubt

LIMITS = np.array([0.5, 0.5, 0.5])


def test_a_decided_mask_has_no_doubt_and_nothing_marked_has_none_to_tell():
    maps = np.zeros((8, 8, 3), np.float32)
    maps[:4, :, 0] = 1
    maps[:, :2, 1] = 0.6
    tasks, image = doubt(maps, LIMITS)
    assert tasks[0] == 0
    assert tasks[1] == pytest.approx(1 - 2 * 0.6 / 1.6)
    assert np.isnan(tasks[2])
    assert image == pytest.approx((32 * 0 + 16 * tasks[1]) / 48)
    assert np.isnan(doubt(np.zeros((8, 8, 3), np.float32), LIMITS)[1])


def test_faint_areas_and_models_that_disagree_raise_it():
    rng = np.random.default_rng(0)
    maps = np.clip(rng.uniform(0.7, 1, (9, 9, 3)) * (rng.uniform(size=(9, 9, 3)) > 0.5), 0, 1)
    faint = np.maximum(maps, 0.2)
    tasks, image = doubt(maps, LIMITS)
    assert (doubt(faint, LIMITS)[0] > tasks).all()
    assert doubt((maps + maps[::-1]) / 2, LIMITS)[1] > image
