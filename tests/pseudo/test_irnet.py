import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from chexseg_jax.irnet.random_walk import propagate
from chexseg_jax.irnet.seeds import BACKGROUND, FOREGROUND, IGNORE, pack_seeds, unpack_seeds
from chexseg_jax.pseudo import irnet
from chexseg_jax.pseudo.irnet import _seed_planes, augment_with_seeds, walk_instances
from chexseg_jax.training.inference import make_inference


def test_padding_has_no_seeds():
    size = 64
    maps = np.zeros((1, size, size, 10), np.float32)
    maps[:, :, :32] = 1  # over the padding too
    image = np.zeros((1, size, size), np.uint8)
    image[:, 16:48, :32], image[:, 16:48, 32:] = 200, 100
    batch = {
        "image": image,
        "map": jnp.asarray(maps),
        "window": jnp.array([[16, 0, 32, 64]]),
        "present": jnp.ones((1, 10), bool),
    }
    planes = _seed_planes(ConfigDict({"foreground": 0.3, "background": 0.05}), size)({}, batch)
    labels = np.asarray(unpack_seeds(planes, 10))[0]
    assert (labels[[*range(4), *range(12, 16)]] == IGNORE).all()
    assert (labels[4:12, :7] == FOREGROUND).all()
    assert (labels[4:12, 9:] == BACKGROUND).all()


def test_seeds_move_with_the_image():
    size, half = 64, 32
    images, labels = np.zeros((400, size, size), np.uint8), np.full((400, 16, 16, 10), BACKGROUND, np.uint8)
    images[:, :half] = 255
    labels[:, : half // 4] = FOREGROUND
    keys = jax.random.split(jax.random.key(0), len(images))
    moved, planes = jax.jit(augment_with_seeds)(keys, images, pack_seeds(jnp.asarray(labels)))
    bright = np.asarray(moved)[:, :, size // 2] > 128
    marked = np.asarray(unpack_seeds(planes, 10))[:, :, 8, 0] == FOREGROUND
    ends = [shown.shape[1] - shown[:, ::-1].argmax(1) for shown in (bright, marked)]
    off = 4 * ends[1] - ends[0]  # in pixels, of the lower edge
    assert abs(off).max() <= 4
    assert abs(off.mean()) < 0.75  # the middle of four pixels lies half a pixel from any of them


WALK = {"foreground": 0.3, "radius": 5, "beta": 10.0, "exp_times": 3}


def two_halves(faint=0.4):
    """Edge, saliency, displacement and centroids [1,...] of two instances, left and right."""
    side = 20
    field = np.zeros((side, side, 2), np.float32)
    rows, columns = np.mgrid[:side, :side]
    field[..., 0] = 10 - rows
    field[..., 1] = np.where(columns < 10, 4, 15) - columns
    centres = np.stack([np.full((side, side), 10), np.where(columns < 10, 4, 15)], -1)
    saliency = np.zeros((side, side, 10), np.float32)
    saliency[10, 4, 0], saliency[10, 15, 0] = 1.0, faint  # two of a kind, one fainter
    saliency[10, 4, 1], saliency[10, 15, 1] = 1.0, 0.2  # the second not strong enough to be one
    return tuple(x[None] for x in (np.zeros((side, side), np.float32), saliency, field, centres))


def test_instances_walk_apart_and_weak_ones_are_left_out():
    ((edge, (walked,)),) = walk_instances([two_halves()], batch_size=4, **WALK)
    assert edge.shape == (1, 20, 20)
    assert walked.shape == (20, 20, 10)
    left, right = walked[:, :10], walked[:, 10:]
    # Instances share one scale: the fainter stays fainter.
    assert 0.3 < right[..., 0].max() / left[..., 0].max() < 0.5
    assert walked[10, 19, 1] < 0.1 * walked[..., 1].max()  # the second task's weaker half does not walk
    assert not walked[..., 2:].any()


def test_an_instance_walks_as_its_saliency_alone_would():
    ((edge, (walked,)),) = walk_instances([two_halves()], batch_size=1, **WALK)
    _, saliency, _, _ = two_halves()
    halves = np.stack([saliency[0, ..., 0]] * 2, -1)
    halves[:, 10:, 0] = halves[:, :10, 1] = 0
    alone = propagate(halves, edge[0], radius=5, beta=10.0, exp_times=3).max(-1)
    np.testing.assert_allclose(walked[..., 0], alone, rtol=1e-6)


def test_all_instances_of_a_batch_walk_in_one_call(monkeypatch):
    calls = []

    def counted(function):
        compiled = make_inference(function)
        return lambda *arguments: calls.append(1) or compiled(*arguments)

    monkeypatch.setattr(irnet, "make_inference", counted)
    one, none = two_halves(), two_halves(faint=0.1)
    none[1][:] = 0
    several = tuple(map(np.concatenate, zip(one, none, two_halves(faint=0.8), strict=True)))
    ((_, maps), (_, last)) = walk_instances([several, one], batch_size=3, **WALK)
    assert len(calls) == 2
    assert not maps[1].any()
    np.testing.assert_array_equal(maps[0], last[0])
    assert maps[2, 10, 15, 0] > maps[0, 10, 15, 0]


def test_more_walks_than_a_block_holds():
    edge, saliency, field, centres = two_halves()
    saliency = np.repeat(saliency[..., :1], 10, -1)  # two instances of ten tasks
    ((_, (walked,)),) = walk_instances([(edge, saliency, field, centres)], batch_size=1, **WALK)
    ((_, (one,)),) = walk_instances([two_halves()], batch_size=1, **WALK)
    np.testing.assert_allclose(walked, np.repeat(one[..., :1], 10, -1), rtol=1e-6)
