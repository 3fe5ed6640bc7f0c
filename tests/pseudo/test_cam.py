from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import Tiny, he_weights

from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import Records
from chexseg_jax.data.taxonomy import CHEXPERT as TAXONOMY
from chexseg_jax.models.normalisation import CHEXPERT, normalise
from chexseg_jax.models.zoo import ENCODERS
from chexseg_jax.pseudo import cam
from chexseg_jax.pseudo.cam import make_cams
from chexseg_jax.saliency.gradcam import grad_cam, scale_to_unit
from chexseg_jax.saved_model import restore, save_model


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


@pytest.mark.parametrize("plus_plus", [False, True])
@pytest.mark.parametrize("mirror", [False, True])
def test_each_task_has_the_grad_cam_of_its_output_and_one_without_has_none(
    folder, plus_plus, mirror, monkeypatch
):
    model, outputs = restore(folder / "classifier"), np.array([13, 0, 3, -1, 2, 1, 5, 4, 12, -1])
    found = SimpleNamespace(
        module=model.module,
        variables=model.variables,
        normalisation=model.normalisation,
        outputs_of=lambda _: outputs,
    )
    monkeypatch.setattr(cam, "restore", lambda _: found)
    images = Prepared.load(folder / "images").images[:]

    def by_output(images):
        grey = normalise(jnp.asarray(images), model.normalisation)
        return np.asarray(grad_cam(model.module, model.variables, grey, plus_plus=plus_plus)[1])

    expected = by_output(images)
    if mirror:
        mirrored = by_output(images[:, :, ::-1])[:, :, ::-1]
        expected = (np.asarray(scale_to_unit(expected)) + np.asarray(scale_to_unit(mirrored))) / 2
    assert (expected.max((0, 1, 2)) > 0).sum() > 10
    expected = np.where(outputs >= 0, expected[..., outputs], 0)
    made = cams(folder, (0, 1, 2), plus_plus=plus_plus, mirror=mirror)
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-5 * expected.max())


def test_with_mirror_a_mirrored_radiograph_has_a_mirrored_map(folder):
    plain, both = cams(folder, (0, 1, 2)), cams(folder, (0, 1, 2), mirror=True)
    assert np.abs(plain[2, :, ::-1] - plain[0]).max() > 1e-3 * plain[0].max()
    np.testing.assert_allclose(both[2, :, ::-1], both[0], rtol=1e-4, atol=1e-5)
    assert both.max() <= 1
