"""One mesh axis, `data`: batches are split over it, all else is replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from chexseg_jax.errors import InputError

DATA_AXIS = "data"


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Make a mesh with one axis `data` over `devices` (default: all devices of all processes)."""
    # `make_mesh` may reorder devices; a process's devices must be adjacent, as its rows of a batch are.
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Place a pytree that is equal on all processes on every device of the mesh."""
    sharding = NamedSharding(mesh, P())

    def local(x: Any) -> Any:
        return x.addressable_data(0) if isinstance(x, jax.Array) and not x.is_fully_addressable else x

    tree = jax.tree.map(local, tree)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)  # in one call: leaf by leaf takes twice as long
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Place this process's part of a batch (leading axis) on the mesh, as one global array per leaf."""
    sharding = NamedSharding(mesh, P(DATA_AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def check_divides(batch_size: int, mesh: Mesh, *, name: str = "batch size ") -> None:
    """Raise InputError, with the batch's name, if it cannot be split evenly over the devices."""
    if batch_size % mesh.size:
        raise InputError(
            f"{name}{batch_size} does not divide over {mesh.size} devices; use a multiple, or fewer devices"
        )
