"""One mesh axis, `data`: batches are split over it, all else is replicated.

While a training steps on one GPU, its state has the layouts that the step's compiler chooses. All else, and everything
that reads the state, has JAX's default layouts.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental.layout import Format, Layout
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


def state_format(mesh: Mesh) -> Format | None:
    """The format of a step's state, into the step and out of it: an argument of `jax.jit`.

    On one device that is no CPU, the compiler chooses the layouts: in the default ones, a GPU transposes every filter,
    and its gradient, at every step. `compile_step` compiles such a step. Else it is None, JAX's default. (On several
    GPUs, XLA sums the gradients of 1x1 filters in other layouts one by one, not with all others.)
    """
    alone = mesh.size == 1 and mesh.devices.flat[0].platform != "cpu"
    return Format(Layout.AUTO, NamedSharding(mesh, P())) if alone else None


def compile_step(step: Any, state: Any, *others: Any) -> tuple[jax.stages.Lowered, jax.stages.Compiled, Any]:
    """Compile a jitted step: also one whose compiler chooses its state's layouts, which cannot be called as it is.

    Returns:
      The step lowered and compiled, and the state in the layouts that the compiled step takes and returns.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    lowered = step.lower(shapes, *others)
    compiled = lowered.compile()
    formats = compiled.input_formats[0][0]
    same = jax.tree.map(lambda x, format: x.format.layout == format.layout, state, formats)
    return lowered, compiled, state if all(jax.tree.leaves(same)) else _place(state, formats)


def default_layouts(state: Any) -> Any:
    """Give a state that a step has returned JAX's default layouts. With several processes, each must call this."""
    same = (x.format.layout.major_to_minor == tuple(range(x.ndim)) for x in jax.tree.leaves(state))
    return state if all(same) else _place(state, jax.tree.map(lambda x: x.sharding, state))


def _place(tree: Any, where: Any) -> Any:
    # One program for all arrays: `jax.device_put` compiles one for each shape.
    return jax.jit(_identity, out_shardings=where)(tree)


def _identity(tree: Any) -> Any:
    return tree


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
