"""Five extensions through public seams, end to end: the code of docs/extending.md.

A data set with three tasks of its own and partly unknown masks, an encoder without BatchNorm and with a 4x4 stem, a
decoder, a pseudo-labeller and a logger. Each is one piece of code and one line of a dict (the data set: one file).
"""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import chexseg_jax
from chexseg_jax import experiment, models
from chexseg_jax.data.chexlocalize import write_segmentations
from chexseg_jax.data.chexpert import write_labels
from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.records import write_rows
from chexseg_jax.data.taxonomy import read_taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.models.layers import resize_bilinear
from chexseg_jax.models.normalisation import normalise
from chexseg_jax.pseudo import LABELLERS, Labeller, Saliency
from chexseg_jax.saliency.gradcam import feature_maps, head_gradients
from chexseg_jax.saved_model import restore
from chexseg_jax.training.inference import map_batches
from chexseg_jax.training.loggers import LOGGERS
from configs import semi

# A data set: its task set is this file.
TASKS = """
labels = ["Nodule", "Effusion", "Line", "Normal"]
tasks = ["Nodule", "Pleural Fluid", "Line"]
common = ["Nodule"]
missing = "unknown"
[label_of]
"Pleural Fluid" = "Effusion"
"""


# An encoder: no BatchNorm, a 4x4 stem, finest map at stride 4.
class PatchNet(nn.Module):
    """Patches of 4x4 pixels, then two convolutions of stride 2."""

    num_classes: int
    width: int = 8
    head = "head"
    stem = "patches"

    def setup(self):
        self.patches = nn.Conv(self.width, (4, 4), (4, 4))
        self.downs = [nn.Conv(self.width * 2, (3, 3), (2, 2)), nn.Conv(self.width * 4, (3, 3), (2, 2))]
        if self.num_classes:
            self.head = nn.Dense(self.num_classes)

    def stages(self, images, train=False):
        maps = {4: nn.gelu(self.patches(images))}
        for stride, down in zip((8, 16), self.downs, strict=True):
            maps[stride] = nn.gelu(down(maps[stride // 2]))
        return maps

    def classify(self, features):
        return self.head(features.mean((1, 2))) if self.num_classes else None

    def __call__(self, images, train=False):
        features = self.stages(images, train)[16]
        return self.classify(features), {"features": features}


# A decoder: a small U-Net.
class UNet(nn.Module):
    """From the coarsest map up, each joined with the next finer one."""

    width: int = 16
    strides = (4, 8, 16)

    @nn.compact
    def __call__(self, maps, train=False):
        x = maps[16]
        for stride in (8, 4):
            x = resize_bilinear(x, maps[stride].shape[1:3], align_corners=False)
            x = nn.relu(nn.Conv(self.width, (3, 3))(jnp.concatenate([x, maps[stride]], -1)))
        return x


# A pseudo-labeller: LayerCAM (Jiang et al., 2021), thresholded by Otsu's rule.
def make_layercams(part, *, classifier, images, rows):
    model, chosen = restore(classifier), Prepared.load(images).take(rows)
    tasks = jnp.asarray(model.outputs_of(chosen.taxonomy))

    def layercams(variables, batch):
        features = feature_maps(model.module, variables, normalise(batch["image"], model.normalisation))
        _, gradients = head_gradients(model.module, variables, features)
        return nn.relu(jnp.einsum("kbhwc,bhwc->bhwk", nn.relu(gradients), features))[..., tasks]

    def make(some):
        examples = Examples(image=chosen.images).take(some)
        for batch in map_batches(layercams, model.variables, examples, batch_size=4):
            yield from ({"maps": one} for one in batch)

    write_rows(part, len(rows), {"maps": "raw"}, make, batch=4)


def layercam(run, classifier, sets):
    maps = {
        name: run.store.make(
            "layercams", make_layercams, collective=True, classifier=classifier, images=prepared, rows=rows
        )
        for name, (prepared, rows) in sets.items()
    }
    return Saliency(maps, {"LayerCAM": maps["weak"]})


# A logger.
class Memory:
    lines: list = []  # noqa: RUF012

    def __init__(self, directory):
        self.name = directory.name

    def truncate(self, step): ...

    def write(self, step, scalars):
        self.lines.append((self.name, step, dict(scalars)))

    def close(self): ...


@pytest.fixture
def extended(monkeypatch):
    monkeypatch.setitem(models.ENCODERS, "patchnet", PatchNet)
    monkeypatch.setitem(models.DECODERS, "unet", UNet)
    monkeypatch.setitem(LABELLERS, "layercam", Labeller("LayerCAM", "#009e73", layercam, threshold="otsu"))
    monkeypatch.setitem(LOGGERS, "memory", Memory)
    monkeypatch.setattr(Memory, "lines", [])


@pytest.fixture
def dataset(tmp_path):
    """24 images of a square, a band and a line; half of the tasks of an expert image are not annotated."""
    root = tmp_path / "mine"
    root.mkdir()
    (root / "tasks.toml").write_text(TASKS)
    taxonomy, draw = read_taxonomy(root), np.random.default_rng(0)
    for split, table, masks_file in (
        ("train", "train.csv", None),
        ("valid", "valid.csv", "gt_segmentations_val.json"),
        ("test", "test_labels.csv", "gt_segmentations_test.json"),
    ):
        rows, entries = [], {}
        for number in range(8):
            has = draw.random(3) < 0.7 if number else np.ones(3, bool)
            masks = np.zeros((48, 40, 3), bool)
            top, left = draw.integers(4, 20, 2)
            masks[top : top + 12, left : left + 12, 0] = has[0]
            masks[-10:, :, 1] = has[1]
            masks[:, left, 2] = has[2]
            pixels = (draw.integers(0, 60, (48, 40)) + 60 * masks.sum(-1)).astype(np.uint8)
            path = f"{split}/patient{split}{number}/study1/view1_frontal.jpg"
            (root / path).parent.mkdir(parents=True)
            Image.fromarray(pixels).save(root / path)
            labels = dict(zip(("Nodule", "Effusion", "Line"), map(float, has), strict=True))
            rows.append({"Path": path, **labels, "Normal": float(not has.any())})
            image_id = "_".join((*path.split("/")[1:3], "view1_frontal"))
            known = draw.random(3) < 0.5 if number > 1 and split == "valid" else np.ones(3, bool)
            entries[image_id] = {t: masks[..., k] for k, t in enumerate(taxonomy.tasks) if known[k]}
            if not known.any():
                entries[image_id] = {"Line": masks[..., 2]}
        write_labels(root / table, rows, columns=("Path", *taxonomy.labels))
        if masks_file:
            write_segmentations(root / masks_file, entries, taxonomy)
    return root


def test_a_label_policy_names_the_labels_of_the_data(dataset, tmp_path):
    config = semi.get_config(f"p=0.5,count=6,root={dataset},scale=laptop")
    config.data.uncertainty = "ignore;Nodule=zeros"
    experiment.Run.open(config, tmp_path / "work", planning=True)
    config.data.uncertainty = "ignore;Edema=zeros"
    with pytest.raises(InputError, match="unknown label 'Edema'"):
        experiment.Run.open(config, tmp_path / "work", planning=True)


def test_five_extensions_run_end_to_end(extended, dataset, tmp_path):
    config = semi.get_config(f"p=0.5,count=6,root={dataset},scale=laptop")
    config.pseudo, config.data.size, config.scores.bootstrap = "layercam", 32, 20
    config.segmentation.decoder = "unet"
    small = {"model": "patchnet", "batch_size": 4, "epochs": 2.0, "checkpoint_every": 2}
    with config.unlocked():
        config.classifier.options = config.encoder.options = config.segmentation.options = {"width": 8}
    config.classifier.update(small)
    config.encoder.update(small)
    config.segmentation.update(steps=4, batch_size=4, checkpoint_every=2)

    run = experiment.run(config, tmp_path / "work")

    model = chexseg_jax.restore(run)
    assert model.config.name == "unet_patchnet"
    assert set(model.variables) == {"params"}
    assert model.tasks == ("Nodule", "Pleural Fluid", "Line")
    assert (
        model.taxonomy == read_taxonomy(dataset) == read_taxonomy(run)
    )  # so `export` reads the run's predictions
    assert model.predict([np.zeros((50, 30), np.uint8)]).shape == (1, 32, 32, 3)
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores["pooled"]) == {*model.tasks, "mean"}
    (expert,) = (tmp_path / "work/artifacts").glob("prepare-valid-*")
    known = Prepared.load(expert).known
    assert known.any()
    assert not known.all()
    (pseudo,) = (tmp_path / "work/artifacts").glob("pseudo-masks-*")
    assert json.loads((pseudo / "thresholds.json").read_text()) is None  # the labeller's own rule, Otsu's
    report = (run / "report.md").read_text()
    assert "LayerCAM" in report
    assert "Pleural Fluid" in report
    assert {name.split("-")[0] for name, _, _ in Memory.lines} == {"classifier", "segmentation"}
