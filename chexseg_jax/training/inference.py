"""Inference over a set of examples: one jitted function, batches in order, split over this process's devices.

No process waits for another here: processes that share the work split the examples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from chexseg_jax.data.ahead import ahead
from chexseg_jax.data.pipeline import in_order
from chexseg_jax.models.normalisation import Normalisation, normalise
from chexseg_jax.progress import progress
from chexseg_jax.training.sharding import DATA_AXIS, data_mesh, replicate

#: (variables, batch) -> arrays with a leading axis of the batch
Function = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


def make_inference(function: Function) -> Function:
    """Jit `function` over this process's devices, each of which takes its part of the batch."""
    # No value crosses devices, so JAX need not track which values differ between them. Tracking would refuse
    # derivatives with respect to constants, as in Grad-CAM.
    sharded = jax.shard_map(
        function,
        mesh=data_mesh(jax.local_devices()),
        in_specs=(P(), P(DATA_AXIS)),
        out_specs=P(DATA_AXIS),
        check_vma=False,
    )
    return jax.jit(sharded)


@lru_cache(maxsize=4)
def probabilities_of(module: nn.Module, normalisation: Normalisation) -> Function:
    """Make the inference of sigmoid probabilities [B,...,K] from grey bytes `batch["image"]` [B,S,S].

    Cached for one reason: the runs of a table, which have equal modules, share one compilation.
    """
    return make_inference(
        lambda variables, batch: jax.nn.sigmoid(
            module.apply(variables, normalise(batch["image"], normalisation))[0]
        )
    )


def map_batches(
    function: Function,
    variables: Mapping[str, Any],
    source: Sequence[dict[str, Any]],
    *,
    batch_size: int,
    what: str | None = None,
    jitted: bool = False,
) -> Iterator[Any]:
    """Yield `function`'s results batch by batch, on the host, without the padding of the last batch.

    Args:
      function: a pure function, or one that `make_inference` has jitted (it is not compiled again).
      variables: passed through; may be replicated over the devices of all processes.
      source: random access to examples, see `data.prepared`.
      batch_size: rounded up to a multiple of the devices. A smaller set is padded to it too, so that the results of an
        example do not depend on the number of others.
      what: the title of the progress line; None shows none.
      jitted: `function` calls jitted functions one after the other; their values stay on the devices in between.
    """
    devices = jax.local_device_count()
    batch_size = -(-batch_size // devices) * devices
    compiled = function if jitted or hasattr(function, "lower") else make_inference(function)
    variables = replicate(variables, data_mesh(jax.local_devices()))
    # Read and dispatch ahead: the devices compute the next batches while one is fetched and used.
    batches = in_order(source, batch_size=batch_size)
    results = ahead(((compiled(variables, batch), real) for batch, real in batches), distance=2)
    if what is None:
        yield from (_trim(*result) for result in results)
        return
    done = 0
    with progress(what, len(source)) as advance:
        for result, real in results:
            yield _trim(result, real)
            done += real
            advance(done, "")


def _trim(results: Any, real: int) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[:real], results)
