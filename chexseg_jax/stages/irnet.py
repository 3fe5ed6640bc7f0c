"""Stages: IRNet trained on the seeds in saliency maps, and the maps walked to the boundaries it draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Int32, Key, UInt8, UInt32
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.artifact import artifact, plain
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import Prepared
from chexseg_jax.data.records import Records, write_rows
from chexseg_jax.data.taxonomy import TASKS
from chexseg_jax.data.transforms import augment
from chexseg_jax.irnet.instances import centroids, instances
from chexseg_jax.irnet.losses import irnet_loss
from chexseg_jax.irnet.random_walk import propagate
from chexseg_jax.irnet.seeds import BACKGROUND, FOREGROUND, IGNORE, seeds
from chexseg_jax.models.normalisation import Normalisation, normalise
from chexseg_jax.progress import say
from chexseg_jax.saliency.gradcam import over_pictures
from chexseg_jax.saved_model import restore, save_model
from chexseg_jax.stages.cams import digest
from chexseg_jax.stages.classifier import init
from chexseg_jax.stages.pseudo_masks import positive_tasks
from chexseg_jax.training import optim
from chexseg_jax.training.inference import map_batches
from chexseg_jax.training.loop import Init, Loss, fit
from chexseg_jax.training.profiling import Profile
from chexseg_jax.training.sharding import DATA_AXIS

#: The network's maps have one pixel for so many of the image's, in each direction.
STRIDE = 4
#: Images at a time, of what is no training.
_BATCH = 16
#: Walks of one image are padded to a multiple of so many maps, so that few programs are compiled.
_WALKS = 16


def train_irnet(
    store: Path,
    config: ConfigDict,
    *,
    uncertainty: str,
    trunk: Path,
    images: Path,
    rows: Sequence[int],
    maps: Path,
    seed: int,
    profile: Profile = Profile(),
) -> Path:
    """Trains both branches on the seeds in the maps, then measures the mean displacement that inference takes off.

    Args:
      store: the folder of artifacts.
      config: `dtype` (of the computation), `batch_size`, `steps`, `learning_rate`, `momentum`, `displacement_rate` (a
        factor), `decay_power`, `radius`, `foreground`, `background`, `crf`, `augment`, `checkpoint_every`.
      uncertainty: the policy for labels of -1.
      trunk: artifact of `train_classifier` with a ResNet50, or an imported one; stays as it is.
      images, rows: prepared set and the rows trained on.
      maps: their saliency, an artifact of `make_cams`, aligned on the rows.
      seed: of the branches' weights, order and augmentation.
      profile: what is looked into as it trains; of no influence on the artifact's name.

    Returns:
      The artifact: a model that `chexseg_jax.restore` opens, and the `seeds` it learned from (records [h,w] uint32, see
      `pack_seeds`).
    """
    key = {
        "config": config,
        "uncertainty": uncertainty,
        "trunk": trunk.name,
        "images": [images.name, digest(rows)],
        "maps": maps.name,
        "seed": seed,
    }

    def make(part: Path) -> None:
        encoder = restore(trunk)
        options = {key: value for key, value in encoder.config.options.items() if key == "stride_on"}
        options["dtype"] = config.dtype
        module = models.create("irnet", num_classes=0, **options)
        train = Prepared.load(images).take(rows)
        present = positive_tasks(train.labels, uncertainty)
        source = SaliencySource(train.images, train.windows, Records.open(maps / "maps"), present)

        def planted(some: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
            for batch in map_batches(
                _seed_planes(config), {}, source.take(some), batch_size=_BATCH, what="seeds"
            ):
                yield from ({"seeds": one} for one in batch)

        planes = write_rows(part, len(rows), {"seeds": "runs"}, planted, batch=_BATCH)["seeds"]
        state = fit(
            "irnet",
            init=_init(module, train.size, encoder.variables),
            loss=boundary_loss(module, encoder.normalisation, radius=config.radius, augmented=config.augment),
            optimizer=_optimizer(config),
            batches=batches(
                shuffled(SeedSource(train.images, planes), seed=seed), batch_size=config.batch_size
            ),
            batch_size=config.batch_size,
            steps=config.steps,
            seed=seed,
            directory=part,
            checkpoint_every=config.checkpoint_every,
            profile=profile,
        )
        variables = _with_mean_displacement(module, encoder.normalisation, state.variables, source)
        save_model(
            part,
            variables,
            name="irnet",
            num_classes=0,
            options=options,
            size=train.size,
            tasks=(),
            normalisation=encoder.normalisation,
            config=plain(config),
        )

    return artifact(store, "irnet", key, make, collective=True)


def walk_maps(
    store: Path, config: ConfigDict, *, network: Path, images: Path, rows: Sequence[int], maps: Path
) -> Path:
    """Saliency maps walked to the boundaries that IRNet draws.

    Args:
      store: the folder of artifacts.
      config: `radius`, `beta`, `exp_times` (see `propagate`), `instances`, `foreground`: with `instances`, each of
        the groups that the displacement field makes walks alone, if its saliency reaches `foreground` anywhere, and a
        pathology's map is the largest of its instances' maps, each scaled to a maximum of 1; `batch_size`.
      network: artifact of `train_irnet`.
      images, rows, maps: prepared set, chosen rows, and their saliency, as for `train_irnet`.

    Returns:
      The artifact, records aligned on `rows` as those of `make_cams` are: `maps` [h,w,10] float32 at a quarter of the
      image's side; `edges` [h,w] float16, the probability of a boundary.
    """
    key = {
        "config": config,
        "network": network.name,
        "images": images.name,
        "rows": digest(rows),
        "maps": maps.name,
    }

    def make(part: Path) -> None:
        model = restore(network)
        prepared = Prepared.load(images).take(rows)
        source = SaliencySource(prepared.images, prepared.windows, Records.open(maps / "maps"), None)
        walk = {"radius": config.radius, "beta": config.beta, "exp_times": config.exp_times}

        def whole(variables, batch):
            saliency, _ = over_pictures(batch["map"], batch["window"], prepared.size, stride=STRIDE)
            edge, field = boundaries(model.module, variables, normalise(batch["image"], model.normalisation))
            if config.instances:
                return edge, saliency, field, jax.vmap(centroids)(field)
            return edge, propagate(saliency, edge, **walk)

        def walked(some: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
            for batch in map_batches(
                whole,
                model.variables,
                source.take(some),
                batch_size=config.batch_size,
                what=f"walks of {len(some)} images",
            ):
                for edge, *rest in zip(*batch, strict=True):
                    found = (
                        _walk_instances(edge, *rest, foreground=config.foreground, **walk)
                        if config.instances
                        else rest[0]
                    )
                    yield {"maps": found, "edges": edge.astype(np.float16)}

        write_rows(part, len(rows), {"maps": "raw", "edges": "raw"}, walked, batch=config.batch_size)

    return artifact(store, "walks", key, make, collective=True)


@dataclass(frozen=True)
class SaliencySource:
    """Random access to {"image" [S,S] uint8, "window" [4], "map" [h,w,10]}, and "present" [10] where that is known."""

    images: Records
    windows: Int32[np.ndarray, "N 4"]
    maps: Records
    present: Bool[np.ndarray, "N 10"] | None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Int[np.ndarray, " M"]) -> "SaliencySource":
        """The given rows."""
        present = None if self.present is None else self.present[rows]
        return SaliencySource(self.images.take(rows), self.windows[rows], self.maps.take(rows), present)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        known = {} if self.present is None else {"present": self.present[row]}
        return {"image": self.images[row], "window": self.windows[row], "map": self.maps[row]} | known


@dataclass(frozen=True)
class SeedSource:
    """Random access to {"image" [S,S] uint8, "seeds" [S/4,S/4] uint32, see `pack_seeds`}."""

    images: Records
    seeds: Records

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        return {"image": self.images[row], "seeds": self.seeds[row]}


def pack_seeds(labels: UInt8[Array, "*B 10"]) -> UInt32[Array, "*B"]:
    """Ten seed labels a pixel as bits: foreground in the lower sixteen, background in the upper, neither ignored."""
    bits = jnp.arange(len(TASKS), dtype=jnp.uint32)
    foreground = ((labels == FOREGROUND).astype(jnp.uint32) << bits).sum(-1, dtype=jnp.uint32)
    background = ((labels == BACKGROUND).astype(jnp.uint32) << bits).sum(-1, dtype=jnp.uint32)
    return foreground | (background << 16)


def unpack_seeds(planes: UInt32[Array, "*B"]) -> UInt8[Array, "*B 10"]:
    """The inverse of `pack_seeds`."""
    bits = jnp.arange(len(TASKS), dtype=jnp.uint32)
    foreground, background = ((planes[..., None] >> (bits + first)) & 1 for first in (0, 16))
    labels = jnp.where(background == 1, BACKGROUND, IGNORE)
    return jnp.where(foreground == 1, FOREGROUND, labels).astype(jnp.uint8)


def boundary_loss(module: nn.Module, by: Normalisation, *, radius: int, augmented: bool) -> Loss:
    """IRNet's loss of a batch {"image", "seeds"}."""

    def loss(params, model_state, batch, keys):
        images, planes = batch["image"], batch["seeds"]
        if augmented:
            images, planes = augment_with_seeds(keys, images, planes)
        _, out = module.apply({"params": params, **model_state}, normalise(images, by), train=True)
        total, terms = irnet_loss(
            out["edge"][..., 0], out["displacement"], unpack_seeds(planes), radius=radius, axis_name=DATA_AXIS
        )
        return total, (model_state, terms)

    return loss


def augment_with_seeds(
    keys: Key[Array, " B"], images: UInt8[Array, "B S S"], planes: UInt32[Array, "B h w"]
) -> tuple[Float[Array, "B S S"], UInt32[Array, "B h w"]]:
    """`augment` of images and of their packed seeds at a quarter of the side: a seed stands for its block's middle."""
    planes = jnp.repeat(jnp.repeat(planes, STRIDE, axis=1), STRIDE, axis=2)
    images, planes = augment(keys, images, planes)
    middle = slice(STRIDE // 2, None, STRIDE)
    return images, planes[:, middle, middle]


def boundaries(
    module: nn.Module, variables: Mapping[str, Any], images: Float[Array, "B S S 3"]
) -> tuple[Float[Array, "B h w"], Float[Array, "B h w 2"]]:
    """Probability of a boundary, from the image and its mirror image, and the displacement field."""
    _, out = module.apply(variables, images)
    _, mirrored = module.apply(variables, images[:, :, ::-1])
    edge = jax.nn.sigmoid((out["edge"] + mirrored["edge"][:, :, ::-1]) / 2)
    return edge[..., 0], out["displacement"]


def _seed_planes(config: ConfigDict) -> Callable:
    limits = {"foreground": config.foreground, "background": config.background}

    def planes(_, batch):
        size = batch["image"].shape[1]
        saliency, picture = over_pictures(batch["map"], batch["window"], size, stride=STRIDE)
        if config.crf:
            grey = jax.image.resize(batch["image"].astype(jnp.float32), saliency.shape[:3], "linear")
            refined = jax.vmap(lambda *image: crf_seeds(*image, **limits))
            labels = refined(saliency, batch["present"], grey)
        else:
            labels = seeds(saliency, batch["present"], **limits)
        # Were the padding sure background, a finding that reaches the picture's rim would end in a boundary there.
        return pack_seeds(jnp.where(picture, labels, IGNORE))

    return planes


def _optimizer(config: ConfigDict) -> Any:
    def branch(path: tuple[Any, ...], _: Any) -> str:
        name = path[0].key
        return "trunk" if name == "resnet50" else "displacement" if name.startswith("fc_dp") else "edge"

    def sgd(factor: float) -> Any:
        return optim.sgd(
            factor * config.learning_rate,
            steps=config.steps,
            power=config.decay_power,
            momentum=config.momentum,
        )

    return optax.multi_transform(
        {"trunk": optax.set_to_zero(), "edge": sgd(1.0), "displacement": sgd(config.displacement_rate)},
        lambda params: jax.tree_util.tree_map_with_path(branch, params),
    )


def _init(module: nn.Module, size: int, trunk: Mapping[str, Any]) -> Init:
    def initial(key: jax.Array) -> tuple[Any, Any]:
        params, model_state = init(module, size)(key)
        resnet = {name: value for name, value in trunk["params"].items() if name != "fc"}
        statistics = model_state["batch_stats"] | {"resnet50": trunk["batch_stats"]}
        return params | {"resnet50": resnet}, {"batch_stats": statistics}

    return initial


def _with_mean_displacement(
    module: nn.Module, by: Normalisation, variables: Mapping[str, Any], source: SaliencySource
) -> dict[str, Any]:
    def means(variables, batch):
        _, out = module.apply(variables, normalise(batch["image"], by), train=True)
        return out["displacement"].mean((1, 2))

    found = np.concatenate(
        list(map_batches(means, variables, source, batch_size=_BATCH, what="mean displacement"))
    )
    mean = found.mean(0)
    say(f"irnet: mean displacement ({mean[0]:.2f}, {mean[1]:.2f}) pixels")
    statistics = variables["batch_stats"] | {"fc_dp7_4": {"mean": jnp.asarray(mean)}}
    return {**variables, "batch_stats": statistics}


def _walk_instances(
    edge: Float[np.ndarray, "h w"],
    saliency: Float[np.ndarray, "h w 10"],
    field: Float[np.ndarray, "h w 2"],
    centres: Any,
    *,
    foreground: float,
    **walk: Any,
) -> Float[np.ndarray, "h w 10"]:
    groups = instances(centres, field)
    split = saliency[None] * groups[..., None]  # [I, h, w, 10]
    group, task = np.nonzero(split.max((1, 2)) > foreground)
    result = np.zeros_like(saliency)
    if len(task):
        starts = np.zeros((*edge.shape, -(-len(task) // _WALKS) * _WALKS), np.float32)
        starts[..., : len(task)] = split[group, :, :, task].transpose(1, 2, 0)
        walked = np.asarray(propagate(starts, edge, **walk))[..., : len(task)]
        walked = walked / np.maximum(walked.max((0, 1)), 1e-12)
        for k, one in zip(task, walked.transpose(2, 0, 1), strict=True):
            result[..., k] = np.maximum(result[..., k], one)
    return result
