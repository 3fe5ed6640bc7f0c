"""Run reports from synthetic artifacts, with three tasks and partly unknown masks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chexseg_jax.data.chexlocalize import Segmentations, encode_masks, write_segmentations
from chexseg_jax.data.chexpert import Studies
from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.split import Split
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.evaluation import iou
from chexseg_jax.report.runs import Made, report_classifier, report_moco, report_segmentation
from chexseg_jax.sources import Sources
from configs import classifier, moco, semi

TASKS = ("Nodule", "Rib Fracture", "Scar")
TAXONOMY = Taxonomy(("Nodule", "Fracture", "Scar"), TASKS, {"Rib Fracture": "Fracture"}, missing="unknown")
IMAGES, SIZE = 4, 16
IDS = tuple(f"image{i}" for i in range(IMAGES))


def artifact(folder, **files):
    folder.mkdir(parents=True)
    for name, content in ({"artifact": {"seconds": 1.5}} | files).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def training(folder, name):
    thresholds = dict.fromkeys(TASKS, 0.35)
    path = artifact(folder, model={"name": name, "thresholds": thresholds})
    lines = [{"step": 5, "loss": 0.5, "top1": 0.25}, {"step": 5, "miou": 0.2}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def auroc(folder, *, judged=True):
    values = dict(zip(TASKS, (0.5, 0.75, None), strict=True))
    return artifact(folder, auroc={"valid": values if judged else dict.fromkeys(TASKS), "test": values})


@pytest.fixture
def masks():
    masks = np.zeros((IMAGES, SIZE, SIZE, 3), bool)
    masks[:, 2:8, 3:9, 0] = masks[1:, 8:12, 8:12, 1] = True
    return masks


@pytest.fixture
def known():
    known = np.ones((IMAGES, 3), bool)
    known[1:, 2] = known[0, 1] = False
    return known


@pytest.fixture
def prepared(masks, known):
    images = np.full((IMAGES, SIZE, SIZE), 90, np.uint8)
    sizes = np.full((IMAGES, 2), SIZE, np.int32)
    labels = np.ones((IMAGES, 3), np.float32)
    return Prepared(IDS, images, labels, sizes, TAXONOMY, pack_masks(masks), known)


@pytest.fixture
def sources(tmp_path, prepared, masks):
    studies = Studies(IDS, (tmp_path,) * IMAGES, prepared.labels, np.ones(IMAGES, bool), TAXONOMY)
    codes = {name: encode_masks(mask, TAXONOMY) for name, mask in zip(IDS, masks, strict=True)}
    reader = Segmentations(Path("reader.json"), codes, TAXONOMY)
    split = Split("test", studies, reader, reader, "0")
    return Sources(split, split, split, TAXONOMY, False, tmp_path / "hospital")


@pytest.fixture
def made(tmp_path, prepared, masks, known):
    """The artifacts of a semi-supervised run that predicts the masks shifted down by one row."""
    store = tmp_path / "artifacts"
    quality = dict(zip(TASKS, (0.5, 0.25, None), strict=True))
    thresholds = dict.fromkeys(TASKS, 0.15)
    pseudo = artifact(
        store / "pseudo", thresholds=thresholds, quality={"masks": quality, "box": quality, "degenerate": {}}
    )
    prepared.save(pseudo)
    maps = artifact(store / "cams")
    write_rows(
        maps, IMAGES, {"maps": "raw"}, lambda rows: ({"maps": np.ones((4, 4, 3), np.float32)} for _ in rows)
    )
    scores, predicted = artifact(store / "scores"), np.roll(masks, 1, 1)
    write_segmentations(scores / "predictions.json", dict(zip(IDS, predicted, strict=True)), TAXONOMY)
    np.save(scores / "weak_masks.npy", pack_masks(predicted[:2]))
    model = [iou.counts(*pair).where(k) for *pair, k in zip(predicted, masks, known, strict=True)]
    truth = [iou.counts(mask, mask).where(k) for mask, k in zip(masks, known, strict=True)]
    iou.save_counts(scores, {"model": model, "box": truth, "reader": truth})
    first, last = training(store / "resnet", "resnet18"), training(store / "segmentation", "deeplab")
    return Made({first: auroc(store / "auroc")}, (first, last), {"Grad-CAM": maps}, pseudo, last, scores)


def embedded(page):
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


@pytest.mark.usefixtures("without_links")
def test_a_segmentation_run(tmp_path, sources, prepared, made):
    prepared.save(artifact(tmp_path / "test"))
    config = semi.get_config("p=0.9")
    run = report_segmentation(tmp_path, config, sources, test=tmp_path / "test", made=made)
    text, page = (run / "report.md").read_text(), (run / "report.html").read_text()
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "Test IoU",
        "From saliency to pseudo-masks",
        "Thresholds",
        "Classifiers",
        "Training",
        "How it was made",
    ]
    for heading in headings:
        assert f">{heading}</h2>" in page
    assert f"Data: `{sources.root}`." in text
    assert "4 pairs of image and task of 12 were not annotated" in text
    assert "| Scar (absent)" in text
    assert "| **together** |       6 |" in text  # of four artifacts, 1.5 s each
    assert "![training curves](curves.png)" in text
    assert page.count('<img src="data:image/png;base64,') == 3
    data = embedded(page)
    assert data["sources"] == ["ground truth", "prediction", "second reader"]
    assert [image["unknown"] for image in data["images"]] == [[1], [2], [2], [2]]
    assert data["images"][0]["scores"]["prediction"] == pytest.approx(
        [30 / 42, None, None, 30 / 42], abs=1e-4
    )
    scores = json.loads((run / "scores.json").read_text())
    assert scores["data"] == "hospital"
    assert scores["pooled"]["Scar"] is None
    assert scores["positives"] == {"Nodule": 4, "Rib Fracture": 3, "Scar": 0}
    copied = shutil.copytree(run, tmp_path / "copied" / "run", symlinks=True)
    assert json.loads((copied / "model" / "model.json").read_text())["name"] == "deeplab"
    for name in (
        "overlays.png",
        "saliency.png",
        "curves.png",
        "metrics.jsonl",
        "predictions.json",
        "config.json",
    ):
        assert (run / name).stat().st_size > 0


def test_an_image_that_is_not_listed_is_shown_and_not_scored(tmp_path, sources, prepared, made):
    """The counts are of the first four images; the masks file does not list the fifth."""
    five = prepared.take([0, 1, 2, 3, 0])
    five = replace(
        five, ids=(*IDS, "image4"), listed=np.arange(5) < 4, known=five.known & (np.arange(5) < 4)[:, None]
    )
    five.save(artifact(tmp_path / "test"))
    masks = dict.fromkeys((*IDS, "image4"), np.ones((SIZE, SIZE, 3), bool))
    write_segmentations(made.scores / "predictions.json", masks, TAXONOMY)
    run = report_segmentation(tmp_path, semi.get_config("p=0.9"), sources, test=tmp_path / "test", made=made)
    text, data = (run / "report.md").read_text(), embedded((run / "report.html").read_text())
    assert "\n4 test images at full size." in text
    assert "the test images that the segmentations file does not list (1 of 5)" in text
    assert "4 pairs of image and task of 12 were not annotated" in text
    assert [image["id"] for image in data["images"]] == [*IDS, "image4"]
    *scored, other = data["images"]
    assert all(image["scores"]["prediction"][-1] is not None for image in scored)
    assert other["scores"] == dict.fromkeys(("prediction", "second reader"), [None] * 4)
    assert set(other["masks"]["prediction"]) == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("threshold", "values", "words"),
    [("tuned", 0.15, "the best by mean IoU"), ("otsu", None, "Otsu's rule"), ("0.4", 0.4, "maps: fixed.")],
)
def test_the_rule_of_the_thresholds_is_stated(threshold, values, words, tmp_path, sources, prepared, made):
    prepared.save(artifact(tmp_path / "test"))
    named = values and dict.fromkeys(TASKS, values)
    (made.pseudo / "thresholds.json").write_text(json.dumps(named))
    config = semi.get_config("p=0.9")
    config.pseudo_masks.threshold = threshold
    run = report_segmentation(tmp_path, config, sources, test=tmp_path / "test", made=made)
    assert words in (run / "report.md").read_text()


def test_expert_masks_alone_have_no_saliency_and_maybe_no_validation_masks(tmp_path, sources, prepared, made):
    prepared.save(artifact(tmp_path / "test"))
    made = replace(made, classifiers={}, trainings=made.trainings[1:], saliency={}, pseudo=None)
    config = semi.get_config("p=1.0")
    (made.model / "metrics.jsonl").write_text(json.dumps({"step": 5, "loss": 0.5}) + "\n")
    run = report_segmentation(tmp_path, config, sources, test=tmp_path / "test", made=made)
    text = (run / "report.md").read_text()
    assert "## From saliency" not in text
    assert "## Classifiers" not in text
    assert not (run / "saliency.png").exists()
    assert "No validation image has masks: there was nothing to choose a checkpoint by" in text


def test_a_classifier_run(tmp_path, sources):
    trained = training(tmp_path / "artifacts" / "densenet", "densenet121")
    run = report_classifier(tmp_path, classifier.get_config(), sources, trained, auroc(tmp_path / "auroc"))
    assert run.name.startswith("classifier,seed=0,laptop-")
    text, page = (run / "report.md").read_text(), (run / "report.html").read_text()
    assert "| **mean**     |              0.625 |             0.625 |" in text
    assert "Checkpoints of the trainings were chosen on valid, so judge by the test column." in text
    assert "## Test IoU" not in text
    assert "<canvas" not in page
    assert "<script" not in page


def test_a_classifier_without_valid_labels_was_not_chosen(tmp_path, sources):
    trained = training(tmp_path / "artifacts" / "densenet", "densenet121")
    scores = auroc(tmp_path / "auroc", judged=False)
    run = report_classifier(tmp_path, classifier.get_config(), sources, trained, scores)
    text = (run / "report.md").read_text()
    assert "No task has both labels on valid: nothing was chosen there." in text
    assert "chosen on valid," not in text


def test_a_classifier_without_test_images_says_so(tmp_path, sources):
    trained = training(tmp_path / "artifacts" / "densenet", "densenet121")
    scores = auroc(tmp_path / "auroc")
    valid = {"valid": json.loads((scores / "auroc.json").read_text())["valid"]}
    (scores / "auroc.json").write_text(json.dumps(valid))
    run = report_classifier(tmp_path, classifier.get_config(), sources, trained, scores)
    text = (run / "report.md").read_text()
    assert (
        "Checkpoints of the trainings were chosen on valid; without test images, these scores are optimistic."
        in text
    )


def test_a_probe_without_valid_labels_was_not_chosen(tmp_path, sources):
    encoder = training(tmp_path / "artifacts" / "moco", "moco")
    probes = {"MoCo": auroc(tmp_path / "a", judged=False)}
    run = report_moco(tmp_path, moco.get_config(), sources, encoder, probes)
    text = (run / "report.md").read_text()
    assert "The penalty is 0.001: no task has both labels on valid" in text
    assert "the best on the valid images" not in text
    assert json.loads((run / "probe.json").read_text()) == {"MoCo, valid": None, "MoCo, test": 0.625}


def test_a_moco_run(tmp_path, sources):
    encoder = training(tmp_path / "artifacts" / "moco", "moco")
    probes = {"MoCo": auroc(tmp_path / "a"), "random weights": auroc(tmp_path / "b")}
    run = report_moco(tmp_path, moco.get_config(), sources, encoder, probes)
    text = (run / "report.md").read_text()
    assert "25% of the queries were nearest to their own key" in text
    # At step 5 the queue of 256 holds the keys of four batches of 16, and chance is log(65).
    assert "chance, with 64 keys in the queue, is 4.174" in text
    assert "random weights, test" in text
    assert json.loads((run / "probe.json").read_text())["MoCo, valid"] == 0.625
    assert (run / "report.html").stat().st_size > 0
