"""One mesh axis, `data`: batches are split over it, everything else is replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from chexseg_jax.errors import InputError

DATA_AXIS = "data"


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `data` over the given devices (default: all of all processes)."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a pytree on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Places this process's part of a batch (leading axis) over the mesh as one global array per leaf."""
    sharding = NamedSharding(mesh, P(DATA_AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def check_divides(batch_size: int, mesh: Mesh) -> None:
    """Raises InputError where the global batch cannot be split evenly over the devices."""
    if batch_size % mesh.size:
        raise InputError(f"batch size {batch_size} does not divide over {mesh.size} devices; take a multiple")
