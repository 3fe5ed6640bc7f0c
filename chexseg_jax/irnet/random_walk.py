"""The random walk that spreads a saliency map up to the boundaries (Ahn et al. 2019, section 4.3).

Pixels are the states, in row-major order. T = A^beta / column sums, where a_ij = 1 - max of the boundary map on
the path from i to j for pairs nearer than `radius`, and a_ii = 1; the walk is x T^t from x = cam * (1 - boundary).

A is symmetric, and a neighbour at (dy, dx) is always dy * width + dx states further on. So A is an identity plus
one diagonal, used in both directions, for each of the pair directions (34 at radius 5): storing it takes
directions x pixels numbers where a dense matrix takes pixels^2, and applying it is one shifted multiply-add a band.
"""

import math
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse
from jaxtyping import Array, Float
from scipy.special import gammaln

from chexseg_jax.irnet.paths import margin, paths

#: Of the truncated expansion in `_power`, relative to the walk's start: below float32's own rounding.
_TOLERANCE = 1e-8


class Bands(NamedTuple):
    """The symmetric A^beta by its upper diagonals.

    Attributes:
      offsets: how many states ahead each band's neighbour is.
      weights: a_ij^beta at [band, i] with j = i + offset; zero where the pair leaves the image.
      degrees: column sums, the diagonal's 1 included.
    """

    offsets: tuple[int, ...]
    weights: Float[Array, "*B D n"]
    degrees: Float[Array, "*B 1 n"]


@partial(jax.jit, static_argnames=("radius", "beta", "exp_times"))
def propagate(
    cam: Float[Array, "*B H W C"],
    edge: Float[Array, "*B H W"],
    *,
    radius: int = 5,
    beta: float = 10,
    exp_times: int = 8,
) -> Float[Array, "*B H W C"]:
    """Walks 2^exp_times steps from cam * (1 - edge).

    Args:
      cam: saliency >= 0, any number of classes (or instances), each walked alone.
      edge: probability of a boundary in [0, 1].
      radius: pairs nearer than this, in pixels, are linked.
      beta: power of the affinities: the larger, the fewer boundaries are crossed.
      exp_times: log2 of the steps; the published code squares the matrix so often.

    Returns:
      >= 0, not normalised.
    """
    *batch, height, width, channels = cam.shape
    bands = to_bands(edge, radius=radius, beta=beta)
    start = jnp.moveaxis(cam * (1 - edge[..., None]), -1, -3).reshape(*batch, channels, height * width)
    end = jnp.maximum(_power(bands, start, 2**exp_times), 0)
    return jnp.moveaxis(end.reshape(*batch, channels, height, width), -3, -1)


def to_bands(edge: Float[Array, "*B H W"], *, radius: int, beta: float) -> Bands:
    """The affinities of a boundary map in [0, 1], to the power beta."""
    *batch, height, width = edge.shape
    reach = margin(radius)
    # Beyond the image everything is boundary: such pairs get affinity 0.
    walled = jnp.pad(edge, [(0, 0)] * len(batch) + [(0, reach), (reach, reach)], constant_values=1.0)
    offsets, bands = [], []
    for (dy, dx), pixels in paths(radius):
        if dy >= height or abs(dx) >= width:
            continue
        views = [walled[..., y : y + height, reach + x : reach + x + width] for y, x in pixels]
        offsets.append(dy * width + dx)
        bands.append(((1 - reduce(jnp.maximum, views)) ** beta).reshape(*batch, height * width))
    if not offsets:
        bands = [jnp.zeros((*batch, height * width), edge.dtype)]
        offsets = [0]
    weights = jnp.stack(bands, axis=-2)
    ones = jnp.ones((*batch, 1, height * width), weights.dtype)
    return Bands(tuple(offsets), weights, _apply(tuple(offsets), weights, ones))


def transition_matrix(edge: Float[Array, "H W"], *, radius: int, beta: float) -> sparse.BCOO:
    """T [n, n] of one image as JAX's own sparse matrix: for reading and for checking. A walk is x @ T @ T ..."""
    offsets, weights, degrees = to_bands(edge, radius=radius, beta=beta)
    n = weights.shape[-1]
    rows, columns, values = [np.arange(n)], [np.arange(n)], [jnp.ones(n)]
    for offset, band in zip(offsets, weights, strict=True):
        here = np.arange(n - offset)
        rows += [here, here + offset]
        columns += [here + offset, here]
        values += [band[: n - offset]] * 2
    columns = np.concatenate(columns)
    indices = jnp.asarray(np.stack([np.concatenate(rows), columns], axis=1))
    return sparse.BCOO((jnp.concatenate(values) / degrees[0, columns], indices), shape=(n, n))


def _apply(
    offsets: tuple[int, ...], weights: Float[Array, "*B D n"], x: Float[Array, "*B C n"]
) -> Float[Array, "*B C n"]:
    """x A: from each state what its neighbours hold, behind and ahead, weighted by the affinities."""
    n = x.shape[-1]
    far = max(offsets)
    ends = [(0, 0)] * (x.ndim - 1) + [(far, far)]
    x, weights = jnp.pad(x, ends), jnp.pad(weights, ends)
    total = x[..., far : far + n]
    for band, offset in enumerate(offsets):
        ahead = weights[..., None, band, far : far + n] * x[..., far + offset : far + offset + n]
        behind = far - offset
        total += ahead + weights[..., None, band, behind : behind + n] * x[..., behind : behind + n]
    return total


def _power(bands: Bands, x: Float[Array, "*B C n"], steps: int) -> Float[Array, "*B C n"]:
    """x T^steps.

    T is similar to a symmetric matrix with eigenvalues in [-1, 1], where z^s is, within 2 exp(-d^2 / 2s), a
    polynomial of degree d: the Chebyshev expansion z^s = 2^(1-s) sum_k binom(s, (s-k)/2) T_k(z), k of the parity
    of s and T_0 halved, cut off at d (Sachdeva and Vishnoi, Faster Algorithms via Approximation Theory, 2014,
    section 3). So 256 steps take 99 products, and twice the products make four times the steps.
    """

    def step(x: Array) -> Array:
        return _apply(bands.offsets, bands.weights, x) / bands.degrees

    degree = math.ceil(math.sqrt(2 * steps * math.log(2 / _TOLERANCE)))
    if degree >= steps:
        return jax.lax.fori_loop(0, steps, lambda _, x: step(x), x)
    coefficients = jnp.asarray(_chebyshev_of_power(steps, degree), x.dtype)

    def recur(k, carry):
        before, now, total = carry
        after = 2 * step(now) - before  # T_{k+1} = 2 z T_k - T_{k-1}
        return now, after, total + coefficients[k] * after

    first = step(x)
    carry = (x, first, coefficients[0] * x + coefficients[1] * first)
    return jax.lax.fori_loop(2, degree + 1, recur, carry)[2]


def _chebyshev_of_power(power: int, degree: int) -> Float[np.ndarray, " degree+1"]:
    """Coefficients of T_0 ... T_degree in z^power."""
    k = np.arange(degree + 1)
    up, down = (power + k) / 2, (power - k) / 2
    logs = gammaln(power + 1) - gammaln(up + 1) - gammaln(down + 1) + (1 - power) * math.log(2)
    coefficients = np.where((power - k) % 2 == 0, np.exp(logs), 0.0)
    coefficients[0] /= 2
    return coefficients
