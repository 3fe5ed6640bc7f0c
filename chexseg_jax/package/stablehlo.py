"""A model as one StableHLO program, by `jax.export`: weights and normalisation inside, any batch, CPU and CUDA."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from jax import export, lax

from chexseg_jax.errors import InputError
from chexseg_jax.models.cpu import override
from chexseg_jax.models.normalisation import normalise
from chexseg_jax.saved_model import Restored

FILE = "model.stablehlo"


def to_stablehlo(model: Restored) -> bytes:
    """Serialise the prediction: grey uint8 [B,S,S] -> sigmoid probabilities [B,S,S,K], or [B,L] of a classifier.

    `jax.export.deserialize` reads it. JAX promises to read it for six months of releases, and in practice longer.

    Raises:
      InputError: without flatbuffers, in which `jax.export` serialises.
    """
    if find_spec("flatbuffers") is None:
        raise InputError("--to stablehlo needs flatbuffers; pip install 'chexseg-jax[stablehlo]'")

    def probabilities(on_cpu: bool) -> Callable[..., jax.Array]:
        def predict(variables: Any, images: jax.Array) -> jax.Array:
            with override(on_cpu):
                return jax.nn.sigmoid(
                    model.module.apply(variables, normalise(images, model.normalisation))[0]
                )

        return predict

    def program(images: jax.Array) -> jax.Array:
        # Without this, the program for CUDA would have the lowerings of the exporting machine, a CPU's.
        return lax.platform_dependent(
            model.variables, images, cpu=probabilities(True), default=probabilities(False)
        )

    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, model.config.size, model.config.size), np.uint8)
    return bytes(export.export(jax.jit(program), platforms=("cpu", "cuda"))(images).serialize())
