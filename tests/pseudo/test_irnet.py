from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.records import Records, write_rows
from chexseg_jax.data.taxonomy import CHEXPERT as TAXONOMY
from chexseg_jax.irnet.losses import irnet_loss
from chexseg_jax.irnet.random_walk import propagate
from chexseg_jax.irnet.seeds import BACKGROUND, FOREGROUND, IGNORE, pack_seeds, unpack_seeds
from chexseg_jax.models.normalisation import IMAGENET, normalise
from chexseg_jax.pseudo import irnet
from chexseg_jax.pseudo.irnet import (
    _optimizer,
    _seed_planes,
    _with_mean_displacement,
    augment_with_seeds,
    boundaries,
    boundary_loss,
    walk_instances,
    walk_maps,
)
from chexseg_jax.saliency.gradcam import scale_within_picture
from chexseg_jax.training.inference import make_inference
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh


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


class Branches(nn.Module):
    """IRNet's outputs: every fourth pixel times its column, and its displacement, less the mean in inference."""

    @nn.compact
    def __call__(self, images, train=False):
        grey = images[:, ::4, ::4, :1]
        mean = self.variable("batch_stats", "fc_dp7_4", lambda: {"mean": jnp.zeros(2)}).value["mean"]
        slope = self.param("slope", nn.initializers.ones, ())
        field = jnp.concatenate([grey, 2 * grey + 1], -1)
        edge = slope * grey * jnp.arange(grey.shape[2])[:, None] / 8
        return None, {"edge": edge, "displacement": field if train else field - mean}


NO_MEAN = {"params": {"slope": jnp.ones(())}, "batch_stats": {"fc_dp7_4": {"mean": jnp.zeros(2)}}}
IMAGES = np.random.default_rng(0).integers(0, 256, (19, 32, 32), np.uint8)


def test_a_boundary_is_the_sigmoid_of_the_mean_logit_of_both_mirror_images():
    images = normalise(jnp.asarray(IMAGES[:2]), IMAGENET)
    edge, field = boundaries(Branches(), NO_MEAN, images)
    _, straight = Branches().apply(NO_MEAN, images)
    _, mirrored = Branches().apply(NO_MEAN, images[:, :, ::-1])
    logits = [np.asarray(straight["edge"])[..., 0], np.asarray(mirrored["edge"])[:, :, ::-1, 0]]
    assert np.abs(logits[0] - logits[1]).max() > 0.5
    np.testing.assert_allclose(edge, 1 / (1 + np.exp(-sum(logits) / 2)), rtol=1e-5)
    np.testing.assert_array_equal(field, straight["displacement"])


def test_the_trunk_stays_and_the_displacement_branch_learns_faster():
    config = {
        "learning_rate": 0.1,
        "displacement_rate": 10.0,
        "steps": 20,
        "decay_power": 0.9,
        "momentum": 0.0,
    }
    optimizer = _optimizer(ConfigDict(config))
    params = {
        name: {"kernel": jnp.zeros(())} for name in ("resnet50", "fc_edge1", "fc_edge6", "fc_dp1", "fc_dp7_3")
    }
    state = optimizer.init(params)
    for step in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        rate = 0.1 * (1 - step / 20) ** 0.9
        for name, factor in zip(params, (0, 1, 1, 10, 10), strict=True):
            assert float(updates[name]["kernel"]) == pytest.approx(-factor * rate, rel=1e-5)


def test_the_mean_displacement_is_that_of_all_training_images_without_an_earlier_mean():
    before = {**NO_MEAN, "batch_stats": {"fc_dp7_4": {"mean": jnp.full(2, 5.0)}, "other": jnp.ones(3)}}
    after = _with_mean_displacement(Branches(), IMAGENET, before, Examples(image=IMAGES))
    grey = np.asarray(normalise(jnp.asarray(IMAGES), IMAGENET))[:, ::4, ::4, 0].mean()
    np.testing.assert_allclose(after["batch_stats"]["fc_dp7_4"]["mean"], [grey, 2 * grey + 1], rtol=1e-4)
    assert after["batch_stats"]["other"].tolist() == [1, 1, 1]


def test_the_loss_is_irnets_on_the_normalised_images():
    seeds = np.random.default_rng(1).choice([BACKGROUND, FOREGROUND, IGNORE], (4, 8, 8, 10)).astype(np.uint8)
    batch = {"image": jnp.asarray(IMAGES[:4]), "seeds": pack_seeds(jnp.asarray(seeds))}
    loss = boundary_loss(Branches(), IMAGENET, tasks=10, radius=3, augmented=False)
    state = {"batch_stats": NO_MEAN["batch_stats"]}
    sharded = jax.shard_map(
        lambda batch: jax.lax.pmean(loss(NO_MEAN["params"], state, batch, None)[0], DATA_AXIS),
        mesh=data_mesh(),
        in_specs=P(DATA_AXIS),
        out_specs=P(),
    )
    _, out = Branches().apply(NO_MEAN, normalise(batch["image"], IMAGENET), train=True)
    expected, _ = irnet_loss(out["edge"][..., 0], out["displacement"], jnp.asarray(seeds), radius=3)
    np.testing.assert_allclose(jax.jit(sharded)(batch), expected, rtol=1e-5)


@pytest.fixture
def images_and_maps(tmp_path, monkeypatch):
    """19 radiographs, the last ten wide, every second with an Edema, and the saliency of rows 18 to 1.

    Returns the arguments that name them, the scaled saliency, and the pixels in the picture.
    """
    maps = np.random.default_rng(2).random((18, 4, 4, 10)).astype(np.float32)
    labels, sizes = np.zeros((19, 14), np.float32), np.full((19, 2), 32)
    labels[::2, TAXONOMY.labels.index("Edema")] = 1
    sizes[9:, 0] = 16
    (tmp_path / "images").mkdir()
    Prepared(tuple(f"image{i}" for i in range(19)), IMAGES, labels, sizes, TAXONOMY).save(tmp_path / "images")
    write_rows(tmp_path / "maps", 18, {"maps": "raw"}, lambda rows: ({"maps": maps[i]} for i in rows))
    model = SimpleNamespace(module=Branches(), variables=NO_MEAN, normalisation=IMAGENET, config=None)
    model.config = SimpleNamespace(options={})
    monkeypatch.setattr(irnet, "restore", lambda _: model)
    common = {"images": tmp_path / "images", "rows": np.arange(18, 0, -1), "maps": tmp_path / "maps"}
    windows = Prepared.load(tmp_path / "images").take(common["rows"]).windows
    return common, *scale_within_picture(jnp.asarray(maps), jnp.asarray(windows), 32, stride=4)


@pytest.mark.parametrize("instances", [False, True])
def test_walks_start_from_the_scaled_saliency_and_stop_at_the_boundaries(
    images_and_maps, tmp_path, instances
):
    common, saliency, _ = images_and_maps
    walk = {"radius": 3, "beta": 5.0, "exp_times": 3}
    config = ConfigDict({**walk, "batch_size": 4, "instances": instances, "foreground": 0.3})
    (tmp_path / "part").mkdir()
    walk_maps(tmp_path / "part", config=config, network=tmp_path, **common)
    walked, edges = (Records.open(tmp_path / "part" / name)[:] for name in ("maps", "edges"))
    edge, _ = boundaries(Branches(), NO_MEAN, normalise(jnp.asarray(IMAGES[common["rows"]]), IMAGENET))
    np.testing.assert_allclose(edges, edge, atol=1e-3)
    if not instances:
        np.testing.assert_allclose(walked, propagate(saliency, edge, **walk), rtol=1e-3, atol=1e-5)
    else:  # some walk apart
        assert (walked <= propagate(saliency, edge, **walk) + 1e-5).all()
        assert walked.max((1, 2, 3)).min() > 0.01


def test_seeds_are_those_of_the_tasks_that_the_labels_show(images_and_maps, tmp_path, monkeypatch):
    common, saliency, picture = images_and_maps
    taken = {}

    def fit(*_, batches, **__):
        for _ in range(9):
            batch = next(batches)
            taken.update(
                zip(batch["id"].tolist(), unpack_seeds(jnp.asarray(batch["seeds"]), 10), strict=True)
            )
        raise KeyboardInterrupt

    for name, value in (
        ("fit", fit),
        ("stride_option", lambda _: {}),
        ("initialise_from", lambda *_, **__: None),
    ):
        monkeypatch.setattr(irnet, name, value)
    config = {"dtype": "float32", "batch_size": 2, "steps": 1, "learning_rate": 0.1, "momentum": 0.0}
    config |= {
        "displacement_rate": 10.0,
        "decay_power": 0.9,
        "radius": 3,
        "foreground": 0.3,
        "background": 0.05,
    }
    config |= {"augment": False, "checkpoint_every": 1}
    (tmp_path / "part").mkdir()
    with pytest.raises(KeyboardInterrupt):
        irnet.train_irnet(
            tmp_path / "part",
            config=ConfigDict(config),
            uncertainty="zeros",
            trunk=tmp_path,
            seed=0,
            **common,
        )
    assert len(taken) == 18
    edema = TAXONOMY.tasks.index("Edema")
    for row, scaled, inside in zip(common["rows"], saliency, picture, strict=True):
        labels, scaled = np.array(taken[f"image{row}"]), np.asarray(scaled[..., edema])
        expected = np.where(scaled > 0.3, FOREGROUND, np.where(scaled < 0.05, BACKGROUND, IGNORE))
        shown = inside[..., 0] & (row % 2 == 0)
        np.testing.assert_array_equal(labels[..., edema], np.where(shown, expected, IGNORE))
        labels[..., edema] = IGNORE
        assert (labels == IGNORE).all()
