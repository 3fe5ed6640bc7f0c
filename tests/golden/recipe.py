"""Deterministic weights and inputs, so that a parity reference needs no weight file.

Every tensor is drawn from `np.random.default_rng([seed, crc32(name)])`, independent of order:
  *.running_mean -> 0.1 * N(0,1);  *.running_var -> U(0.5, 1.5);  *.num_batches_tracked -> 0
  1-D `weight` (norm scale) -> 1 + 0.1 * N(0,1);  1-D anything else -> 0.1 * N(0,1)
  >=2-D `weight` (conv OIHW, linear OI) -> N(0,1) * sqrt(2 / fan_in), fan_in = prod(shape[1:])
  input `x` of a shape -> N(0,1)
All draws are float64, cast to float32.
"""

import zlib

import numpy as np


def rng(seed, name):
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def tensor(seed, name, shape):
    g = rng(seed, name)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_mean"):
        v = 0.1 * g.standard_normal(shape)
    elif name.endswith("running_var"):
        v = g.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        v = 0.1 * g.standard_normal(shape)
        if name.endswith("weight"):
            v = v + 1
    else:
        v = g.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return v.astype(np.float32)


def state(seed, shapes):
    return {k: tensor(seed, k, tuple(s)) for k, s in shapes.items()}


def inputs(seed, name, shape):
    return rng(seed, name).standard_normal(shape).astype(np.float32)
