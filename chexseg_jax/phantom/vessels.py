"""Pulmonary vessels, which give the lung its texture."""

import numpy as np

from chexseg_jax.phantom.geometry import Stroke

#: Forks of a vessel between hilum and pleura.
_FORKS = 5


def vessel_tree(
    rng: np.random.Generator, hilum: tuple[float, float], side: int, main: int = 9
) -> list[Stroke]:
    """Grow vessels that fan out from a hilum, fork, taper and fade towards the pleura; the thinnest come first.

    Args:
      rng: the patient's stream for vessels.
      hilum: origin, in body coordinates.
      side: -1 the lung at smaller u, +1 the one at larger u, 0 all around (lateral view).
      main: number of stems.
    """
    angle = np.linspace(-1.45, 1.5, main) if side else np.linspace(-np.pi, np.pi, main, endpoint=False)
    angle = angle + rng.normal(0, 0.09, main)
    angle = np.pi - angle if side < 0 else angle
    start = np.array(hilum) + rng.normal(0, 0.03, (main, 2))
    length, width = rng.uniform(0.17, 0.28, main), rng.uniform(0.022, 0.036, main)
    generations = []
    for _ in range(_FORKS + 1):
        bend = rng.normal(0, 0.4, len(angle))
        heading = angle[:, None] + bend[:, None] * np.arange(4) / 3
        steps = np.stack([np.cos(heading), np.sin(heading)], -1) * length[:, None, None] / 4
        points = np.concatenate([start[:, None], start[:, None] + np.cumsum(steps, axis=1)], axis=1)
        generations.append([Stroke(p, w, min(0.42, 12 * w)) for p, w in zip(points, width, strict=True)])
        turn = np.tile([-1.0, 1.0], len(angle)) * rng.uniform(0.2, 0.55, 2 * len(angle))
        start, angle = np.repeat(points[:, -1], 2, axis=0), np.repeat(angle + bend, 2) + turn
        length = np.repeat(length, 2) * rng.uniform(0.6, 0.95, len(angle))
        width = np.repeat(width, 2) * rng.uniform(0.6, 0.78, len(angle))
    return [stroke for generation in reversed(generations) for stroke in generation]
