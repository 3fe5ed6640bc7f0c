"""Independent random streams: one seed of a run gives each of its draws and trainings a seed of its own."""

import hashlib


def stream(seed: int, *purpose: str | int) -> int:
    """Derive the seed of one purpose, such as `stream(seed, "segmentation", trial)`.

    Seeds of different purposes, or of different runs, are unrelated, where `seed + trial` would make trial 1 of seed 0
    equal to trial 0 of seed 1.

    Returns:
      A number in [0, 2^31), which JAX, NumPy and Grain all take.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
