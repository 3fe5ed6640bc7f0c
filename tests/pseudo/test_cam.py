import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import Tiny, he_weights

from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import Records
from chexseg_jax.data.taxonomy import CHEXPERT as TAXONOMY
from chexseg_jax.models.normalisation import CHEXPERT
from chexseg_jax.models.zoo import ENCODERS
from chexseg_jax.pseudo.cam import make_cams
from chexseg_jax.saved_model import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier of random weights, and three radiographs of which the last is the first, mirrored."""
    folder = tmp_path_factory.mktemp("cams")
    for name in ("classifier", "images"):
        (folder / name).mkdir()
    ENCODERS["tiny"] = Tiny
    common = {
        "num_classes": 14,
        "options": {},
        "size": 64,
        "tasks": TAXONOMY.labels,
        "normalisation": CHEXPERT,
    }
    save_model(folder / "classifier", he_weights(Tiny(14)), name="tiny", **common)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    images[2] = images[0, :, ::-1]
    Prepared(("a", "b", "c"), images, np.zeros((3, 14)), np.full((3, 2), 64), TAXONOMY).save(
        folder / "images"
    )
    return folder


def cams(folder, rows, **settings):
    config = ConfigDict({"plus_plus": False, "mirror": False, "batch_size": 2} | settings)
    classifier, images = folder / "classifier", folder / "images"
    part = folder / f"{len(list(folder.iterdir()))}"
    part.mkdir()
    make_cams(part, config=config, classifier=classifier, images=images, rows=np.array(rows))
    return Records.open(part / "maps")[:]


def test_maps_are_aligned_on_the_rows(folder):
    every, two = cams(folder, (0, 1, 2)), cams(folder, (2, 0))
    assert every.shape == (3, 4, 4, 10)
    assert (every >= 0).all()
    np.testing.assert_allclose(two, every[[2, 0]], rtol=1e-4, atol=1e-6)


def test_with_mirror_a_mirrored_radiograph_has_a_mirrored_map(folder):
    plain, both = cams(folder, (0, 1, 2)), cams(folder, (0, 1, 2), mirror=True)
    assert np.abs(plain[2, :, ::-1] - plain[0]).max() > 1e-3 * plain[0].max()
    np.testing.assert_allclose(both[2, :, ::-1], both[0], rtol=1e-4, atol=1e-5)
    assert both.max() <= 1
