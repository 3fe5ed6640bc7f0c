"""The p-mixture: every element of a batch is an expert example with probability exactly p."""

from typing import Any

import grain
import numpy as np

from chexseg_jax.errors import InputError
from chexseg_jax.streams import stream

#: Grain's "no end": indices below this may be asked for.
_ENDLESS = np.iinfo(np.int64).max


class _Draw:
    """Grain's selection map: global index -> (source, index within it), a pure function of (seed, index).

    The element at index i is drawn from source 0 with probability p, independently for each i (a counter-based
    generator, so random access, shards and resumption see the same draws). The index within the source is i
    itself: over an endlessly repeated, reshuffled source that is a uniform draw which no source runs dry of.
    """

    def __init__(self, p: float, seed: int):
        self._p, self._seed = p, seed

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> tuple[int, int]:
        draw = np.random.Generator(np.random.Philox(key=self._seed, counter=index)).random()
        return int(draw >= self._p), index


def mixture(expert: Any, weak: Any, *, p: float, seed: int) -> grain.MapDataset:
    """An endless, shuffled, random-access stream that draws from `expert` with probability p, else from `weak`.

    p = 0 and p = 1 drop a source, which may then be None. (Grain's own `MapDataset.mix` interleaves in a fixed
    pattern and refuses a weight of zero.)

    Args:
      expert, weak: random-access sources with the same element structure.
      p: probability of an expert example, in [0, 1], per element.
      seed: of the draw and of both shuffles, each with its own stream.

    Raises:
      InputError: for p outside [0, 1], or a source that is needed and empty.
    """
    if not 0 <= p <= 1:
        raise InputError(f"the mixture's p = {p} is outside [0, 1]")
    streams = []
    for name, source, share in (("expert", expert, p), ("weak", weak, 1 - p)):
        if share > 0 and not source:
            raise InputError(f"p = {p:g} draws from the {name} examples, and there are none")
        streams.append(shuffled(source, seed=stream(seed, name)) if share > 0 else None)
    if None in streams:
        return next(one for one in streams if one is not None)
    return grain.MapDataset.select_from_datasets(streams, _Draw(p, stream(seed, "draw")))


def shuffled(source: Any, *, seed: int) -> grain.MapDataset:
    """`source` repeated without end, each epoch in another order."""
    return grain.MapDataset.source(source).seed(seed).shuffle().repeat()
