import numpy as np
import pytest

from chexseg_jax.data.images import fit_image, read_grey
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.reference import UPRIGHT, Reference, fit_reference, shrunk_covariance
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import DamagedError

PIXELS = np.arange(40) / 40


def radiograph(rng, *, height=40, width=40):
    """Two dark lungs on a bright trunk before a dark surround, at a place, brightness and contrast of its own."""
    y, x = np.arange(height)[:, None] / height, np.arange(width) / width + rng.uniform(-0.05, 0.05)
    trunk = np.clip(0.5 + y - 6 * np.abs(x - 0.5) ** 3, 0, None)
    lungs = sum(
        np.exp(-(((x - centre) / 0.12) ** 2 + ((y - 0.45) / rng.uniform(0.2, 0.3)) ** 2))
        for centre in (0.3, 0.7)
    )
    picture = trunk - rng.uniform(0.6, 0.9) * lungs + rng.normal(0, 0.02, (height, width))
    return np.clip(rng.uniform(80, 130) * picture + rng.uniform(20, 60), 0, 255).astype(np.uint8)


def prepared(images, size=48):
    return Prepared(
        tuple(map(str, range(len(images)))),
        np.stack([fit_image(image, size) for image in images]),
        np.zeros((len(images), len(CHEXPERT.labels))),
        np.array([image.shape for image in images]),
        CHEXPERT,
    )


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [radiograph(rng, height=40 + n % 3 * 10) for n in range(140)]


@pytest.fixture(scope="module")
def reference(images):
    return fit_reference([prepared(images[:60]), prepared(images[60:120])])


CHANGES = {
    "ok": lambda image: image,
    "inverted": lambda image: 255 - image,
    "rotated": lambda image: np.rot90(image, 2),
    "rotated and inverted": lambda image: 255 - np.rot90(image),
    "blank": lambda image: 100 + image // 80,
    "unlike": lambda image: (128 + 100 * np.sin(PIXELS[:, None] * 25) * np.cos(PIXELS * 17)).astype(np.uint8),
}


@pytest.mark.parametrize("verdict", CHANGES)
def test_verdicts_on_images_that_the_reference_has_not_seen(reference, images, verdict):
    verdicts = [reference.check(CHANGES[verdict](image)).verdict for image in images[120:]]
    assert verdicts.count(verdict) >= 18, verdicts


def test_a_score_above_one_is_its_verdict(reference, images):
    image = images[130]
    assert max(reference.check(image)[:4]) < 1
    assert reference.check(255 - image).inverted > 1 > reference.check(255 - image).blank
    for quarter in (1, 2, 3):
        assert reference.check(np.rot90(image, quarter)).rotated > 1
    assert reference.check(np.full((9, 7), 255, np.uint8)).blank > 1
    assert reference.check(CHANGES["unlike"](image)).unlike > 1


def test_brightness_contrast_and_size_do_not_count(reference, images):
    image = images[130]
    dim = (image // 2 + 20).repeat(3, 0).repeat(5, 1)
    np.testing.assert_allclose(reference.check(dim)[1:4], reference.check(image)[1:4], rtol=0.2)


def test_without_training_images_an_upright_chest_is_the_reference(images):
    assert fit_reference([prepared(images[:15])]) is UPRIGHT
    for verdict in ("ok", "inverted", "rotated", "blank", "unlike"):
        assert UPRIGHT.check(CHANGES[verdict](images[0])).verdict == verdict


def test_that_chest_is_the_phantoms(small_download):
    """The constant, against the frontal views of another phantom: no number is off by 20 grey levels."""
    frontal = [read_grey(path) for path in sorted(small_download.rglob("*frontal*.jpg"))]
    mean = fit_reference([prepared(frontal)]).mean
    assert len(frontal) >= 16
    assert np.corrcoef(mean, UPRIGHT.mean)[0, 1] > 0.99
    assert np.abs(mean / mean.std() - UPRIGHT.mean).max() < 0.5


def test_equal_training_images_are_a_reference(images):
    assert fit_reference([prepared(images[:1] * 16, size=40)]).check(images[0]).verdict == "ok"
    assert np.isfinite(fit_reference([prepared([np.zeros((9, 9), np.uint8)] * 16)]).limit)


def test_the_places_of_all_pictures_are_not_computed_for_each(images, monkeypatch):
    """At CheXpert's size this took half an hour at the end of a training."""
    asked = []
    windows = Prepared.windows.fget
    monkeypatch.setattr(Prepared, "windows", property(lambda self: asked.append(len(self)) or windows(self)))
    fit_reference([prepared(images[:60]), prepared(images[60:120])])
    assert asked == [60, 60]


def test_it_is_saved(reference, images, tmp_path):
    assert Reference.load(tmp_path) is UPRIGHT
    reference.save(tmp_path)
    assert Reference.load(tmp_path).check(images[0]) == reference.check(images[0])
    file = tmp_path / "reference.npz"
    for content in (file.read_bytes()[:-100], b"", b"not an archive"):
        file.write_bytes(content)
        with pytest.raises(DamagedError, match=r"reference\.npz: truncated or corrupt"):
            Reference.load(tmp_path)


def test_the_covariance_is_sklearns_ledoit_wolf():
    """Of scikit-learn 1.9.1."""
    values = np.array([[1, 2, 0], [3, 1, 4], [1, 5, 9], [2, 6, 5], [3, 5, 8], [9, 7, 9]], float)
    expected = [
        [7.49336552, 0.70325504, 1.0018067],
        [0.70325504, 6.79674496, 1.20747563],
        [1.0018067, 1.20747563, 8.20988952],
    ]
    np.testing.assert_allclose(shrunk_covariance(values), expected, rtol=1e-6)
