import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from chexseg_jax.artifact import Store
from chexseg_jax.data.images import fit_image, read_grey
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.evaluation.auroc import auroc
from chexseg_jax.sources import open_sources
from chexseg_jax.stages import classifier as stage
from chexseg_jax.stages.classifier import score_classifier, train_classifier
from chexseg_jax.stages.prepare import prepare
from chexseg_jax.training.inference import make_inference


@pytest.fixture
def valid(download, tmp_path):
    """(table, folder of the prepared set) of the valid split, whose masks file lists every second image."""
    file = download / "gt_segmentations_val.json"
    masks = json.loads(file.read_text())
    file.write_text(json.dumps(dict(list(masks.items())[::2])))
    split = open_sources(Store(tmp_path), ConfigDict({"root": str(download)})).valid
    (tmp_path / "valid").mkdir()
    config = ConfigDict({"size": 32, "views": "both", "max_missing": 0.0})
    prepare(tmp_path / "valid", config=config, split=split)
    return split.studies, tmp_path / "valid"


@pytest.fixture
def brightness(monkeypatch):
    """A classifier whose logit of every label is the image's mean."""
    model = SimpleNamespace(module=None, variables={}, normalisation=None)
    model.outputs_of = lambda taxonomy: np.array(taxonomy.label_indices)
    infer = make_inference(
        lambda _, batch: jnp.repeat(batch["image"].astype(jnp.float32).mean((1, 2))[:, None], 14, 1)
    )
    monkeypatch.setattr(stage, "restore", lambda _: model)
    monkeypatch.setattr(stage, "logits_of", lambda *_: infer)


def by_hand(studies):
    """AUROC over all images of the table."""
    images = np.array([fit_image(read_grey(path), 32) for path in studies.paths])
    labels = studies.labels[:, studies.taxonomy.label_indices]
    return auroc(np.repeat(images.mean((1, 2))[:, None], len(studies.taxonomy.tasks), 1), labels)


def test_auroc_is_over_the_whole_table(valid, brightness, tmp_path):
    studies, folder = valid
    expected = by_hand(studies)
    assert np.isfinite(expected).sum() > 3
    score_classifier(tmp_path, classifier=tmp_path, splits={"valid": folder})
    scores = json.loads((tmp_path / "auroc.json").read_text())["valid"]
    assert scores == studies.taxonomy.named(expected)


def test_the_checkpoint_is_chosen_over_the_whole_table(valid, brightness, tmp_path, monkeypatch):
    studies, folder = valid
    chosen = {}

    def fit(*_, evaluate, **__):
        chosen.update(evaluate({}))
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "fit", fit)
    config = {"model": "resnet18", "options": {}, "epochs": 1.0, "batch_size": 2, "learning_rate": 0.1}
    config |= {"warmup_share": 0.0, "decay": False, "augment": False, "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        train_classifier(
            tmp_path,
            config=ConfigDict(config),
            uncertainty="ignore",
            weak=folder,
            expert=folder,
            start=None,
            seed=0,
        )
    assert chosen["auroc"] == pytest.approx(np.nanmean(by_hand(studies)))
    assert len(Prepared.load(folder)) == len(studies)
