"""The programs of this project at the paper's settings, ready to lower for devices that are not there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from chexseg_jax import models
from chexseg_jax.configs import semi
from chexseg_jax.data.taxonomy import CHEXPERT as TAXONOMY
from chexseg_jax.irnet import instances
from chexseg_jax.irnet.random_walk import propagate
from chexseg_jax.models import cpu
from chexseg_jax.models.moco import Embedder
from chexseg_jax.models.normalisation import CHEXPERT, IMAGENET, normalise
from chexseg_jax.pseudo import irnet
from chexseg_jax.saliency.gradcam import grad_cam
from chexseg_jax.stages.classifier import classifier_loss
from chexseg_jax.stages.moco import moco_init, moco_loss
from chexseg_jax.stages.segmentation import segmentation_loss
from chexseg_jax.training import optim
from chexseg_jax.training.inference import make_inference, probabilities_of
from chexseg_jax.training.loop import Loss, make_step
from chexseg_jax.training.sharding import DATA_AXIS, check_divides, data_mesh
from chexseg_jax.training.state import Init, TrainState, initial_variables

LABELS, TASKS = len(TAXONOMY.labels), len(TAXONOMY.tasks)
#: Any rate and length: they are constants of the schedule and change no shape.
_RATE, _STEPS = 1e-4, 1000


@dataclass(frozen=True)
class Program:
    """A jitted function and the shapes of its arguments.

    Attributes:
      function: what to lower.
      arguments: trees of `jax.ShapeDtypeStruct`, placed on devices.
      donated: number of arrays whose memory the results reuse.
    """

    function: Any
    arguments: tuple[Any, ...]
    donated: int = 0


@dataclass(frozen=True)
class Setting:
    """What a program is built for.

    Attributes:
      mesh: the devices.
      dtype: of the networks' computation.
      batch: the global batch; 0 for the paper's.
      remat: whether the networks recompute in the backward pass, to save memory.
    """

    mesh: Mesh
    dtype: str = "float32"
    batch: int = 0
    remat: bool = False

    @cached_property
    def config(self) -> ConfigDict:
        """The configuration at the paper's scale."""
        return semi.get_config("scale=paper,pseudo=irnet,init=moco")

    @property
    def size(self) -> int:
        """Side of the images, in pixels."""
        return self.config.data.size

    def network(self, name: str, num_classes: int, **options: Any) -> Any:
        """A network that computes in `dtype`."""
        return models.create(name, num_classes=num_classes, dtype=self.dtype, **options)

    def place(self, tree: Any, spec: P) -> Any:
        """Shapes on the devices.

        Raises:
          InputError: for a batch that does not divide over them.
        """
        if spec == P(DATA_AXIS):
            check_divides(jax.tree.leaves(tree)[0].shape[0], self.mesh)
        sharding = NamedSharding(self.mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    def step(self, loss: Loss, init: Init, optimizer: Any, batch: dict[str, Any]) -> Program:
        """The train loop's step."""

        def initial(key: jax.Array) -> TrainState:
            params, model_state = init(key)
            return TrainState(jnp.zeros((), jnp.int32), params, model_state, optimizer.init(params))

        key = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(initial, key)
        arguments = self.place(state, P()), self.place(batch, P(DATA_AXIS)), self.place(key, P())
        return Program(make_step(loss, optimizer, self.mesh), arguments, len(jax.tree.leaves(state)))

    def inference(self, function: Callable, module: Any, batch: dict[str, Any]) -> Program:
        """A function of variables and batch, jitted or to be jitted by `make_inference`."""
        variables: dict[str, Any] = {}
        if module is not None:
            params, rest = jax.eval_shape(
                initial_variables(module, self.size), jax.eval_shape(lambda: jax.random.key(0))
            )
            variables = {"params": params, **rest}
        function = function if hasattr(function, "lower") else make_inference(function)
        return Program(function, (self.place(variables, P()), self.place(batch, P(DATA_AXIS))))


@contextmanager
def absent(devices: Sequence[Any]) -> Iterator[Mesh]:
    """Let code that chooses by backend, or takes this process's devices, see these, which are not there."""

    def listed(*_: Any) -> list[Any]:
        return list(devices)

    with cpu.override(False), mock.patch.multiple(jax, devices=listed, local_devices=listed):
        yield data_mesh(list(devices))


def _array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _images(setting: Setting, batch: int) -> dict[str, Any]:
    return {"image": _array(jnp.uint8, batch, setting.size, setting.size)}


def deeplab(setting: Setting) -> Program:
    """A training step of the segmentation."""
    config = setting.config.segmentation
    batch = setting.batch or config.batch_size
    module = setting.network("deeplabv3plus_resnet18", TASKS, axis_name=DATA_AXIS, remat=setting.remat)
    return setting.step(
        segmentation_loss(module, IMAGENET, augmented=config.augment),
        initial_variables(module, setting.size),
        optim.adam(_RATE),
        {
            **_images(setting, batch),
            "masks": _array(jnp.uint8, batch, setting.size, setting.size, -(-TASKS // 8)),
            "known": _array(jnp.bool_, batch, TASKS),
        },
    )


def _classifier(setting: Setting, section: ConfigDict) -> Program:
    batch = setting.batch or section.batch_size
    module = setting.network(section.model, LABELS, axis_name=DATA_AXIS, remat=setting.remat)
    return setting.step(
        classifier_loss(module, CHEXPERT, augmented=section.augment),
        initial_variables(module, setting.size),
        optim.adam(_RATE),
        {
            **_images(setting, batch),
            "targets": _array(jnp.float32, batch, LABELS),
            "weights": _array(jnp.float32, batch, LABELS),
        },
    )


def densenet(setting: Setting) -> Program:
    """A training step of the classifier whose saliency maps become pseudo-masks."""
    return _classifier(setting, setting.config.classifier)


def trunk(setting: Setting) -> Program:
    """A training step of the ResNet50 that may become IRNet's trunk."""
    return _classifier(setting, setting.config.trunk)


def moco(setting: Setting) -> Program:
    """A training step of MoCo on ResNet18."""
    config = setting.config.moco
    embedder = Embedder(setting.network("resnet18", 0, remat=setting.remat))
    names = ("temperature", "key_momentum", "norm_group", "crop", "size")
    return setting.step(
        moco_loss(embedder, CHEXPERT, **{name: config[name] for name in names}),
        moco_init(embedder, setting.size, queue=config.queue),
        optim.sgd_cosine(_RATE, steps=_STEPS, momentum=config.momentum, weight_decay=config.weight_decay),
        _images(setting, setting.batch or config.batch_size),
    )


def irnet_step(setting: Setting) -> Program:
    """A training step of IRNet."""
    config = setting.config.irnet
    batch, side = setting.batch or config.batch_size, setting.size // irnet.STRIDE
    module = setting.network("irnet", 0)
    return setting.step(
        irnet.boundary_loss(module, IMAGENET, tasks=TASKS, radius=config.radius, augmented=config.augment),
        initial_variables(module, setting.size),
        irnet._optimizer(config),
        {**_images(setting, batch), "seeds": _array(jnp.uint8, batch, side, side, 2 * -(-TASKS // 8))},
    )


def boundaries(setting: Setting) -> Program:
    """IRNet's boundaries and displacements, from images and their mirror images."""
    module = setting.network("irnet", 0)
    return setting.inference(
        lambda variables, batch: irnet.boundaries(module, variables, normalise(batch["image"], IMAGENET)),
        module,
        _images(setting, setting.batch or setting.config.walk.batch_size),
    )


def centroids(setting: Setting) -> Program:
    """The pixel that every pixel reaches along IRNet's displacements."""
    side = setting.size // irnet.STRIDE
    batch = setting.batch or setting.config.walk.batch_size
    return setting.inference(
        lambda _, batch: jax.vmap(instances.centroids)(batch["displacement"]),
        None,
        {"displacement": _array(jnp.float32, batch, side, side, 2)},
    )


def walk(setting: Setting) -> Program:
    """The random walk, with the CheXseg code's constants."""
    return _walk(setting, setting.config.walk)


def walk_pascal(setting: Setting) -> Program:
    """The random walk, with the constants of IRNet's own code."""
    return _walk(setting, semi.get_config("scale=paper,pseudo=irnet,walk=pascal").walk)


def walk_apart(setting: Setting) -> Program:
    """The same of 32 instances an image, each alone."""
    config = semi.get_config("scale=paper,pseudo=irnet,walk=pascal").walk
    batch, side = setting.batch or config.batch_size, setting.size // irnet.STRIDE
    constants = {name: config[name] for name in ("radius", "beta", "exp_times")}
    return setting.inference(
        lambda _, batch: irnet.walk_apart(**batch, **constants),
        None,
        {
            "edge": _array(jnp.float32, batch, side, side),
            "saliency": _array(jnp.float32, batch, side, side, TASKS),
            "instance": _array(jnp.int32, batch, side, side),
            "walks": _array(jnp.int32, batch, 32, 2),
        },
    )


def _walk(setting: Setting, config: ConfigDict) -> Program:
    batch, side = setting.batch or config.batch_size, setting.size // irnet.STRIDE
    constants = {name: config[name] for name in ("radius", "beta", "exp_times")}
    return setting.inference(
        lambda _, batch: propagate(batch["saliency"], batch["edge"], **constants),
        None,
        {
            "saliency": _array(jnp.float32, batch, side, side, TASKS),
            "edge": _array(jnp.float32, batch, side, side),
        },
    )


def gradcam(setting: Setting) -> Program:
    """Grad-CAMs of all classes of DenseNet121, for 64 images."""
    module = setting.network("densenet121", LABELS)
    return setting.inference(
        lambda variables, batch: grad_cam(module, variables, normalise(batch["image"], CHEXPERT)),
        module,
        _images(setting, setting.batch or 64),
    )


def inference(setting: Setting) -> Program:
    """The segmentation's probabilities, as scores and validation compute them."""
    return _probabilities(setting, setting.batch or setting.config.scores.batch_size)


def predict(setting: Setting) -> Program:
    """The same for one image on each device, as the command `predict` computes them."""
    return _probabilities(setting, setting.mesh.size)


def _probabilities(setting: Setting, batch: int) -> Program:
    module = setting.network("deeplabv3plus_resnet18", TASKS, axis_name=DATA_AXIS)
    return setting.inference(probabilities_of(module, IMAGENET), module, _images(setting, batch))


PROGRAMS: dict[str, Callable[[Setting], Program]] = {
    "deeplab": deeplab,
    "densenet": densenet,
    "trunk": trunk,
    "moco": moco,
    "gradcam": gradcam,
    "irnet": irnet_step,
    "boundaries": boundaries,
    "walk": walk,
    "walk_pascal": walk_pascal,
    "instances": walk_apart,
    "centroids": centroids,
    "inference": inference,
    "predict": predict,
}
