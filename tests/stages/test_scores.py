import json
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.artifact import Store
from chexseg_jax.data.chexlocalize import decode, read_segmentations
from chexseg_jax.data.images import pack_masks, unfit_map
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.taxonomy import CHEXPERT, write_taxonomy
from chexseg_jax.evaluation.boxes import centred_boxes, mask_shares
from chexseg_jax.evaluation.iou import counts, load_counts
from chexseg_jax.sources import open_sources
from chexseg_jax.stages import scores as stage
from chexseg_jax.stages.prepare import prepare
from chexseg_jax.training.inference import make_inference

#: None of them is a grey value.
LIMITS = [round(0.31 + 0.02 * k, 2) for k in range(10)]


def test_counts_of_a_run_are_those_of_its_masks(tiny_run):
    workdir, _ = tiny_run
    (scores,) = [p for p in workdir.glob("artifacts/scores-*") if (p / "weak_masks.npy").exists()][:1]
    found = load_counts(scores)
    assert set(found) == {"model", "box", "reader"}
    (data,) = workdir.glob("artifacts/phantom-*/data")
    truth, reader = (read_segmentations(data / f"{whose}_segmentations_test.json") for whose in ("gt", "hb"))
    prepared = Prepared.load(next(workdir.glob("artifacts/prepare-test-*")))
    prepared = prepared.take(np.flatnonzero(prepared.listed))
    for name, masks in (("model", read_segmentations(scores / "predictions.json")), ("reader", reader)):
        expected = [counts(masks.masks(i), truth.masks(i)) for i in prepared.ids]
        np.testing.assert_array_equal(found[name], np.stack(expected, 1))
    # A box is a fixed share of every image.
    box = found["box"]
    np.testing.assert_array_equal(box.positives, found["model"].positives)
    height, width = prepared.sizes[0]
    one = box.predicted[0, 2] / (height * width)
    np.testing.assert_allclose(box.predicted[:, 2] / prepared.sizes.prod(1), one, atol=0.05)


def test_all_test_images_are_predicted_and_the_listed_ones_counted(download, tmp_path, monkeypatch):
    file = download / "gt_segmentations_test.json"
    masks = json.loads(file.read_text())
    masks.pop(next(iter(masks)))
    file.write_text(json.dumps(masks))
    split = score(download, tmp_path, monkeypatch)
    predictions = read_segmentations(tmp_path / "predictions.json")
    assert set(predictions.ids) == set(split.studies.ids)
    listed = [image_id for image_id in split.studies.ids if image_id in masks]
    assert len(listed) == len(masks) < len(predictions)
    pairs = [(predictions.masks(i), split.segmentations.masks(i)) for i in listed]
    expected = np.stack([counts(*pair) for pair in pairs], 1)
    np.testing.assert_array_equal(load_counts(tmp_path)["model"], expected)
    # What is predicted on the other images is no false positive.
    assert all(predictions.masks(image_id).any() for image_id in predictions.ids)


def test_masks_are_above_each_tasks_threshold_and_boxes_as_large_as_the_expert_training_masks(
    download, tmp_path, monkeypatch
):
    score(download, tmp_path, monkeypatch, pseudo=tmp_path / "test")
    predictions, test = read_segmentations(tmp_path / "predictions.json"), Prepared.load(tmp_path / "test")
    for image_id, image, size in zip(test.ids, test.images[:], test.sizes.tolist(), strict=True):
        brightness = unfit_map(np.float32(image)[..., None] / 255, tuple(size))
        np.testing.assert_array_equal(predictions.masks(image_id), brightness > np.float32(LIMITS))
    weak = pack_masks(np.float32(test.images[:3])[..., None] / 255 > np.float32(LIMITS))
    np.testing.assert_array_equal(np.load(tmp_path / "weak_masks.npy"), weak)
    shares = mask_shares(test.take([0, 1]))
    assert not np.allclose(shares, mask_shares(test))
    boxes = [centred_boxes((height, width), shares).sum((0, 1)) for height, width in test.sizes.tolist()]
    np.testing.assert_array_equal(load_counts(tmp_path)["box"].predicted, boxes)


def test_what_the_second_reader_did_not_annotate_is_unknown_and_not_empty(download, tmp_path, monkeypatch):
    write_taxonomy(download, replace(CHEXPERT, missing="unknown"))
    truth, reader = (download / f"{whose}_segmentations_test.json" for whose in ("gt", "hb"))
    listed = json.loads(truth.read_text())
    name = min(listed)
    task, code = next((task, code) for task, code in listed[name].items() if decode(code).any())
    reader.write_text(json.dumps(listed | {name: {t: c for t, c in listed[name].items() if t != task}}))
    split = score(download, tmp_path, monkeypatch)
    found = load_counts(tmp_path)
    row = [image_id for image_id in split.studies.ids if image_id in listed].index(name)
    k = CHEXPERT.tasks.index(CHEXPERT.task(task))
    assert found["model"].positives[row, k] == decode(code).sum()
    assert found["reader"].positives[row, k] == 0
    np.testing.assert_array_equal(found["reader"].intersections, found["reader"].unions)


def score(download, tmp_path, monkeypatch, pseudo=None):
    """Score a model that knows nothing on the test images of a download, and return their split."""
    split = open_sources(Store(tmp_path), ConfigDict({"root": str(download)})).test
    config = ConfigDict({"size": 32, "views": "both", "max_missing": 0.0})
    (tmp_path / "test").mkdir()
    prepare(tmp_path / "test", config=config, split=split)
    model = SimpleNamespace(
        module=None,
        variables={},
        normalisation=None,
        thresholds=dict(zip(CHEXPERT.tasks, LIMITS, strict=True)),
    )
    infer = make_inference(lambda _, batch: jnp.repeat(batch["image"][..., None] / 255, 10, -1))
    monkeypatch.setattr(stage, "restore", lambda _: model)
    monkeypatch.setattr(stage, "probabilities_of", lambda *_: infer)
    stage.score_segmentation(
        tmp_path,
        batch_size=2,
        model=tmp_path,
        test=tmp_path / "test",
        split=split,
        expert=tmp_path / "test",
        train_rows=np.arange(2),
        pseudo=pseudo,
    )
    return split
