"""Pseudo-labeller `irnet`: IRNet, trained on the seeds in Grad-CAMs, walks the maps up to the boundaries it draws."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, UInt8
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.artifact import plain
from chexseg_jax.data.ahead import ahead
from chexseg_jax.data.chexpert import positive_tasks
from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.provenance import UNKNOWN, Provenance
from chexseg_jax.data.records import Records, write_rows
from chexseg_jax.data.transforms import augment
from chexseg_jax.irnet.instances import centroids, instances
from chexseg_jax.irnet.losses import irnet_loss
from chexseg_jax.irnet.random_walk import propagate
from chexseg_jax.irnet.seeds import IGNORE, pack_seeds, seeds, unpack_seeds
from chexseg_jax.models.cpu import map_images
from chexseg_jax.models.normalisation import Normalisation, normalise
from chexseg_jax.progress import say
from chexseg_jax.pseudo import cam
from chexseg_jax.pseudo.labeller import Images, Run, Saliency
from chexseg_jax.saliency.gradcam import scale_within_picture
from chexseg_jax.saved_model import initialise_from, restore, save_model, stride_option
from chexseg_jax.streams import stream
from chexseg_jax.training import optim
from chexseg_jax.training.inference import make_inference, map_batches
from chexseg_jax.training.loop import Apart, Loss, fit
from chexseg_jax.training.sharding import DATA_AXIS

#: Published threshold on a walked map in [0, 1]: the value of the background.
BACKGROUND = 0.6
#: Image pixels per pixel of the network's maps, in each direction.
STRIDE = 4
#: Batch size outside training.
_BATCH = 16
#: Walks of an image that are computed at once; the largest number of a batch is padded to a multiple of it.
_WALKS = 16


def maps(run: Run, classifier: Path, sets: Mapping[str, Images]) -> Saliency:
    """Walk the Grad-CAMs of the weak and the expert images by an IRNet.

    It is trained once, on `config.irnet.count` weak images, for all trials and numbers of pseudo-masks.
    """
    config, large = run.config, run.positives(run.config.irnet.count)
    frozen = config.trunk_init == "imagenet"  # as published
    cams = cam.maps(run, classifier, {"large": large, **sets})
    trunk = run.imagenet("resnet50") if frozen else run.classifier("trunk")
    network = run.store.make(
        "irnet",
        train_irnet,
        version=5,
        collective=True,
        apart=run.apart,
        config=config.irnet,
        uncertainty=config.data.uncertainty,
        trunk=trunk,
        images=large.prepared,
        rows=large.rows,
        maps=cams.maps["large"],
        seed=stream(config.seed, "irnet"),
    )
    walks = {
        name: run.store.make(
            "walks",
            walk_maps,
            version=3,
            collective=True,
            config=config.walk,
            network=network,
            images=images.prepared,
            rows=images.rows,
            maps=cams.maps[name],
        )
        for name, images in sets.items()
    }
    trainings = [network] if frozen else [trunk, network]
    return Saliency(walks, {**cams.steps, "walk": walks["weak"]}, trainings)


def imagenet(config: ConfigDict) -> tuple[str, ...]:
    """The networks whose ImageNet weights `maps` needs: that of the trunk, or of the classifier that becomes it."""
    return ("resnet50",) if "imagenet" in (config.trunk_init, config.trunk.start) else ()


def train_irnet(
    part: Path,
    *,
    config: ConfigDict,
    uncertainty: str,
    trunk: Path,
    images: Path,
    rows: Int[np.ndarray, " N"],
    maps: Path,
    seed: int,
    provenance: Provenance = UNKNOWN,
    **apart: Unpack[Apart],
) -> None:
    """Train both branches on the seeds in the maps, then measure the mean displacement that inference subtracts.

    Args:
      part: receives a model that `chexseg_jax.restore` opens, and the training `seeds` (records [h,w,2P], see
        `irnet.seeds.pack_seeds`).
      config: `dtype` (of the computation), `batch_size`, `steps`, `learning_rate`, `momentum`, `displacement_rate` (a
        factor), `decay_power`, `radius`, `foreground`, `background`, `augment`, `checkpoint_every`.
      uncertainty: the policy for uncertain and blank labels.
      trunk: a saved ResNet50, which stays frozen.
      images, rows: prepared set and the training rows.
      maps: their saliency, aligned on `rows`.
      seed: of the branches' weights, order and augmentation.
      provenance: of the data, for the record.
      **apart: see `training.loop.Apart`.
    """
    encoder, train = restore(trunk), Prepared.load(images).take(rows)
    tasks, normalisation = len(train.taxonomy.tasks), encoder.normalisation
    options = {**stride_option(encoder), "dtype": config.dtype}
    module = models.create("irnet", num_classes=0, **options)
    present = positive_tasks(train.labels, uncertainty, train.taxonomy)
    examples = _examples(train, maps, present=present)

    def make_seeds(some: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
        seeds_of = _seed_planes(config, train.size)
        for batch in map_batches(seeds_of, {}, examples.take(some), batch_size=_BATCH, what="seeds"):
            yield from ({"seeds": one} for one in batch)

    planes = write_rows(part, len(rows), {"seeds": "runs"}, make_seeds, batch=_BATCH)["seeds"]
    order = shuffled(Examples(image=train.images, seeds=planes, id=np.array(train.ids)), seed=seed)
    state = fit(
        "irnet",
        init=initialise_from(encoder, module, train.size, part="resnet50"),
        loss=boundary_loss(
            module, normalisation, tasks=tasks, radius=config.radius, augmented=config.augment
        ),
        optimizer=_optimizer(config),
        batches=batches(order, batch_size=config.batch_size),
        batch_size=config.batch_size,
        steps=config.steps,
        seed=seed,
        directory=part,
        checkpoint_every=config.checkpoint_every,
        **apart,
    )
    save_model(
        part,
        _with_mean_displacement(module, normalisation, state.variables, examples),
        name="irnet",
        num_classes=0,
        options=options,
        size=train.size,
        tasks=(),
        normalisation=normalisation,
        taxonomy=train.taxonomy,
        config=plain(config),
        provenance=provenance,
    )


def walk_maps(
    part: Path,
    *,
    config: ConfigDict,
    network: Path,
    images: Path,
    rows: Int[np.ndarray, " N"],
    maps: Path,
) -> None:
    """Walk saliency maps up to the boundaries that IRNet draws.

    Args:
      part: receives records aligned on `rows`: `maps` [h,w,K] float32 at a quarter of the image's side, and `edges`
        [h,w] float16, the probability of a boundary.
      config: `radius`, `beta`, `exp_times` (see `propagate`), `batch_size`, `instances`, `foreground`. With
        `instances`, each group of pixels that the displacement field forms walks alone if its saliency exceeds
        `foreground` anywhere, and a task's map is the maximum over its instances' maps, on one scale.
      network: from `train_irnet`.
      images, rows, maps: prepared set, rows and their saliency, as for `train_irnet`.
    """
    model, chosen = restore(network), Prepared.load(images).take(rows)
    examples = _examples(chosen, maps)
    walk = {"radius": config.radius, "beta": config.beta, "exp_times": config.exp_times}

    def walk_batch(variables, batch):
        saliency, _ = scale_within_picture(batch["map"], batch["window"], chosen.size, stride=STRIDE)
        edge, field = boundaries(model.module, variables, normalise(batch["image"], model.normalisation))
        if config.instances:
            return edge, saliency, field, jax.vmap(centroids)(field)
        return edge, propagate(saliency, edge, **walk)

    def make(some: Int[np.ndarray, " M"]) -> Iterator[dict[str, np.ndarray]]:
        batches = map_batches(
            walk_batch,
            model.variables,
            examples.take(some),
            batch_size=config.batch_size,
            what=f"walks of {len(some)} images",
        )
        if config.instances:
            batches = walk_instances(
                batches, batch_size=config.batch_size, foreground=config.foreground, **walk
            )
        for edges, maps in batches:
            for edge, walked in zip(edges, maps, strict=True):
                yield {"maps": walked, "edges": edge.astype(np.float16)}

    write_rows(part, len(rows), {"maps": "raw", "edges": "raw"}, make, batch=config.batch_size)


def boundary_loss(
    module: nn.Module, normalisation: Normalisation, *, tasks: int, radius: int, augmented: bool
) -> Loss:
    """IRNet's loss of a batch {"image", "seeds"}."""

    def loss(params, model_state, batch, keys):
        images, planes = batch["image"], batch["seeds"]
        if augmented:
            images, planes = augment_with_seeds(keys, images, planes)
        _, out = module.apply({"params": params, **model_state}, normalise(images, normalisation), train=True)
        total, terms = irnet_loss(
            out["edge"][..., 0],
            out["displacement"],
            unpack_seeds(planes, tasks),
            radius=radius,
            axis_name=DATA_AXIS,
        )
        return total, (model_state, terms)

    return loss


def augment_with_seeds(
    keys: Key[Array, " B"], images: UInt8[Array, "B S S"], planes: UInt8[Array, "B h w Q"]
) -> tuple[Float[Array, "B S S"], UInt8[Array, "B h w Q"]]:
    """`augment` images and their packed seeds at a quarter of the side: a seed stands for the centre of its block."""
    planes = jnp.repeat(jnp.repeat(planes, STRIDE, axis=1), STRIDE, axis=2)
    images, planes = augment(keys, images, planes)
    middle = slice(STRIDE // 2, None, STRIDE)
    return images, planes[:, middle, middle]


def boundaries(
    module: nn.Module, variables: Mapping[str, Any], images: Float[Array, "B S S c"]
) -> tuple[Float[Array, "B h w"], Float[Array, "B h w 2"]]:
    """The probability of a boundary, from the image and its mirror image, and the displacement field."""
    _, out = module.apply(variables, images)
    _, mirrored = module.apply(variables, images[:, :, ::-1])
    edge = jax.nn.sigmoid((out["edge"] + mirrored["edge"][:, :, ::-1]) / 2)
    return edge[..., 0], out["displacement"]


def _examples(images: Prepared, maps: Path, **more: np.ndarray) -> Examples:
    """Examples {"image" [S,S], "window" [4], "map" [h,w,K]} and any further columns."""
    return Examples(image=images.images, window=images.windows, map=Records.open(maps / "maps"), **more)


def _seed_planes(config: ConfigDict, size: int) -> Callable:
    limits = {"foreground": config.foreground, "background": config.background}

    def planes(_, batch):
        saliency, picture = scale_within_picture(batch["map"], batch["window"], size, stride=STRIDE)
        labels = seeds(saliency, batch["present"], **limits)
        # Padding as background would draw a boundary around a finding that reaches the picture's edge.
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


def _with_mean_displacement(
    module: nn.Module, normalisation: Normalisation, variables: Mapping[str, Any], examples: Examples
) -> dict[str, Any]:
    def means(variables, batch):
        _, out = module.apply(variables, normalise(batch["image"], normalisation), train=True)
        return out["displacement"].mean((1, 2))

    batched = map_batches(means, variables, examples, batch_size=_BATCH, what="mean displacement")
    mean = np.concatenate(list(batched)).mean(0)
    say(f"irnet: mean displacement ({mean[0]:.2f}, {mean[1]:.2f}) pixels")
    statistics = variables["batch_stats"] | {"fc_dp7_4": {"mean": jnp.asarray(mean)}}
    return {**variables, "batch_stats": statistics}


def walk_instances(
    batches: Iterable[tuple[np.ndarray, ...]], *, batch_size: int, foreground: float, **walk: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Walk every instance alone, all those of a batch at once; a task's map is the maximum over its instances' maps.

    Args:
      batches: (edge [b,h,w], saliency [b,h,w,K], displacement [b,h,w,2], centroids [b,h,w,2]), b <= `batch_size`.
      batch_size: images that walk at once; a smaller batch is padded to it, so that one program serves all.
      foreground: an instance walks for a task if its saliency exceeds this anywhere.
      **walk: constants, see `propagate`.

    Yields:
      (edge [b,h,w], maps [b,h,w,K]) of each batch.
    """
    devices = jax.local_device_count()
    compiled = make_inference(lambda _, batch: map_images(lambda some: walk_apart(**some, **walk), batch))

    def dispatch() -> Iterator[tuple[np.ndarray, jax.Array]]:
        for edge, saliency, field, centres in batches:
            found = [
                _instances_to_walk(*one, foreground) for one in zip(saliency, field, centres, strict=True)
            ]
            most = max(1, *(len(pairs) for _, pairs in found))
            pairs = np.full((len(edge), -(-most // _WALKS) * _WALKS, 2), -1, np.int32)  # no instance, no task
            for row, (_, some) in zip(pairs, found, strict=True):
                row[: len(some)] = some
            batch = {
                "edge": edge,
                "saliency": saliency,
                "instance": np.stack([index for index, _ in found]),
                "walks": pairs,
            }
            rows = -(-batch_size // devices) * devices - len(edge)
            yield (
                edge,
                compiled({}, {k: np.concatenate([x, x[:1].repeat(rows, 0)]) for k, x in batch.items()}),
            )

    for edge, maps in ahead(dispatch(), distance=1):  # the host finds a batch's instances while another walks
        yield edge, np.asarray(maps)[: len(edge)]


def walk_apart(
    edge: Float[Array, "B h w"],
    saliency: Float[Array, "B h w K"],
    instance: Int[Array, "B h w"],
    walks: Int[Array, "B C 2"],
    **constants: Any,
) -> Float[Array, "B h w K"]:
    """Walk the saliency of each (instance, task) in `walks` alone; a task's map is the maximum over its walks.

    Args:
      edge: probability of a boundary.
      saliency: of the tasks.
      instance: the number of each pixel's instance.
      walks: C is a multiple of 16; -1 is no instance and no task.
      **constants: see `propagate`.
    """

    def block(highest: Array, walks: Array) -> tuple[Array, None]:
        inside = instance[..., None] == walks[:, None, None, :, 0]  # [B, h, w, C]
        of_task = walks[..., 1:] == jnp.arange(saliency.shape[-1])  # [B, C, K]
        task = jnp.maximum(walks[:, None, None, :, 1], 0)
        start = jnp.where(inside, jnp.take_along_axis(saliency, task, -1), 0)
        walked = propagate(start, edge, **constants)[..., None]
        return jnp.maximum(highest, jnp.where(of_task[:, None, None], walked, 0).max(-2)), None

    # XLA on a GPU makes one kernel of a step of 16 walks; of 64 it makes several that read the maps many times over.
    blocks = jnp.moveaxis(walks.reshape(len(walks), -1, _WALKS, 2), 1, 0)
    return jax.lax.scan(block, jnp.zeros_like(saliency), blocks)[0]


def _instances_to_walk(
    saliency: Float[np.ndarray, "h w K"],
    field: Float[np.ndarray, "h w 2"],
    centres: Int[np.ndarray, "h w 2"],
    foreground: float,
) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "n 2"]]:
    """The number of each pixel's instance, and (instance, task) of every walk."""
    groups = instances(centres, field)
    peaks = np.stack([saliency[group].max(0) for group in groups])
    return groups.argmax(0).astype(np.int32), np.argwhere(peaks > foreground).astype(np.int32)
