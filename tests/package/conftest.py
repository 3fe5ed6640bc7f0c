import shutil

import numpy as np
import pytest
from PIL import Image
from tiny import Tiny, he_weights

from chexseg_jax import models
from chexseg_jax.data.provenance import Provenance
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.models.normalisation import Normalisation
from chexseg_jax.saved_model import save_model

TAXONOMY = Taxonomy(labels=("Nodule", "Fracture"), tasks=("Nodule", "Fracture"))


@pytest.fixture(scope="session")
def tiny_segmentation(tmp_path_factory):
    """A run's folder: DeepLabv3+ on the tiny encoder, with masks that are neither empty nor full."""
    models.ENCODERS["tiny"] = Tiny
    run = tmp_path_factory.mktemp("runs") / "RUN"
    (run / "model").mkdir(parents=True)
    module = models.create("deeplabv3plus_tiny", num_classes=2)
    save_model(
        run / "model",
        he_weights(module),
        name="deeplabv3plus_tiny",
        num_classes=2,
        options={},
        size=32,
        tasks=TAXONOMY.tasks,
        taxonomy=TAXONOMY,
        normalisation=Normalisation((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)),
        thresholds={"Nodule": 0.5, "Fracture": 0.45},
        provenance=Provenance(
            "phantom: synthetic images", synthetic=True, views="frontal", licence="CC-BY-4.0"
        ),
    )
    (run / "scores.json").write_text('{"data": "phantom: synthetic images", "pooled": {"Nodule": 0.25}}')
    return run


@pytest.fixture
def place(tiny_segmentation, tmp_path, monkeypatch):
    """A working directory with that run in work/runs/RUN and with a radiograph, radiograph.png."""
    shutil.copytree(tiny_segmentation, tmp_path / "work" / "runs" / "RUN")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "radiograph.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path
