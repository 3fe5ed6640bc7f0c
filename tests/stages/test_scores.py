import numpy as np

from chexseg_jax.data.chexlocalize import read_segmentations
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.evaluation.iou import counts, load_counts


def test_counts_of_a_run_are_those_of_its_masks(tiny_run):
    workdir, _ = tiny_run
    (scores,) = [p for p in workdir.glob("artifacts/scores-*") if (p / "weak_masks.npy").exists()][:1]
    found = load_counts(scores)
    assert set(found) == {"model", "box", "reader"}
    (data,) = workdir.glob("artifacts/phantom-*/data")
    truth, reader = (read_segmentations(data / f"{whose}_segmentations_test.json") for whose in ("gt", "hb"))
    prepared = Prepared.load(next(workdir.glob("artifacts/prepare-test-*")))
    for name, masks in (("model", read_segmentations(scores / "predictions.json")), ("reader", reader)):
        expected = [counts(masks.masks(i), truth.masks(i)) for i in prepared.ids]
        np.testing.assert_array_equal(found[name], np.stack(expected, 1))
    # A box is a fixed share of every image.
    box = found["box"]
    np.testing.assert_array_equal(box.positives, found["model"].positives)
    height, width = prepared.sizes[0]
    one = box.predicted[0, 2] / (height * width)
    np.testing.assert_allclose(box.predicted[:, 2] / prepared.sizes.prod(1), one, atol=0.05)
