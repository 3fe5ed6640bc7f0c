"""The random walk that spreads a saliency map up to the boundaries (Ahn et al. 2019, section 4.3).

Pixels are the states, in row-major order. T = A^beta / column sums, where a_ij = 1 - max of the boundary map on
the path from i to j for pairs nearer than `radius`, and a_ii = 1; the walk is x T^t from x = cam * (1 - boundary).

A is symmetric, and a neighbour at (dy, dx) is always dy * width + dx states further on. So A is an identity plus
one diagonal, used in both directions, for each of the pair directions (34 at radius 5): storing it takes
directions x pixels numbers where a dense matrix takes pixels^2, and applying it is one shifted multiply-add a band.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse
from jaxtyping import Array, Float
from scipy.special import gammaln

from chexseg_jax.irnet.paths import affinities, margin, paths

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
      radius: pairs nearer than this, in pixels, are linked; at least 2.
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
    within = [k for k, ((dy, dx), _) in enumerate(paths(radius)) if dy < height and abs(dx) < width]
    offsets = tuple(dy * width + dx for (dy, dx), _ in (paths(radius)[k] for k in within))
    bands = affinities(walled, radius=radius)[np.array(within, int)] ** beta
    weights = jnp.moveaxis(bands, 0, -3).reshape(*batch, len(within), height * width)
    far, n = max(offsets, default=0), height * width
    ends = _padded(weights, far)
    behind = sum(
        ends[..., None, band, far - offset : far - offset + n] for band, offset in enumerate(offsets)
    )
    return Bands(offsets, weights, 1 + weights.sum(-2, keepdims=True) + behind)


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


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flow(
    offsets: tuple[int, ...], weights: Float[Array, "*B D n"], x: Float[Array, "*B C n"]
) -> Float[Array, "*B C n"]:
    """x A - x diag(degrees): what each state gains over its neighbours, behind and ahead.

    By differences, so that hundreds of steps do not add up the rounding of a flat map.
    """
    n, far = x.shape[-1], max(offsets, default=0)
    gain, ends, weights = jnp.zeros_like(x), _padded(x, far), _padded(weights, far)
    for band, offset in enumerate(offsets):
        behind, ahead = (slice(start, start + n) for start in (far - offset, far + offset))
        gain += weights[..., None, band, far : far + n] * (ends[..., ahead] - x)
        gain += weights[..., None, band, behind] * (ends[..., behind] - x)
    return gain


def _padded(x: Float[Array, "... n"], far: int) -> Float[Array, "... n+2*far"]:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(far, far)])


def _flow_forward(offsets, weights, x):
    return _flow(offsets, weights, x), (weights, x)


def _flow_backward(offsets, saved, dy):
    weights, x = saved
    n, far = x.shape[-1], max(offsets, default=0)
    ends, dy_ends = _padded(x, far), _padded(dy, far)
    # A band's weight moves (x_j - x_i) to i and takes it from j.
    bands = [
        ((ends[..., far + o : far + o + n] - x) * (dy - dy_ends[..., far + o : far + o + n])).sum(-2)
        for o in offsets
    ]
    dweights = jnp.stack(bands, axis=-2) if bands else jnp.zeros_like(weights)
    return dweights, _flow(offsets, weights, dy)  # symmetric


_flow.defvjp(_flow_forward, _flow_backward)


def _power(bands: Bands, x: Float[Array, "*B C n"], steps: int) -> Float[Array, "*B C n"]:
    """x T^steps.

    T is similar to a symmetric matrix with eigenvalues in [-1, 1], where z^s is, within 2 exp(-d^2 / 2s), a
    polynomial of degree d: the Chebyshev expansion z^s = 2^(1-s) sum_k binom(s, (s-k)/2) T_k(z), k of the parity
    of s and T_0 halved, cut off at d (Sachdeva and Vishnoi, Faster Algorithms via Approximation Theory, 2014,
    section 3). So 256 steps take 99 products, and twice the products make four times the steps.
    """

    def change(x: Array) -> Array:
        return _flow(bands.offsets, bands.weights, x) / bands.degrees  # x T - x

    degree = math.ceil(math.sqrt(2 * steps * math.log(2 / _TOLERANCE)))
    if degree >= steps:
        return jax.lax.fori_loop(0, steps, lambda _, x: x + change(x), x)
    coefficients = jnp.asarray(_chebyshev_of_power(steps, degree), x.dtype)

    def recur(k, carry):
        now, ahead, total = carry
        ahead += 2 * change(now)  # T_{k+1} - T_k = T_k - T_{k-1} + 2 (z - 1) T_k
        return now + ahead, ahead, total + coefficients[k] * (now + ahead)

    ahead = change(x)
    carry = (x + ahead, ahead, coefficients[0] * x + coefficients[1] * (x + ahead))
    return jax.lax.fori_loop(2, degree + 1, recur, carry)[2]


def _chebyshev_of_power(power: int, degree: int) -> Float[np.ndarray, " degree+1"]:
    """Coefficients of T_0 ... T_degree in z^power."""
    k = np.arange(degree + 1)
    up, down = (power + k) / 2, (power - k) / 2
    logs = gammaln(power + 1) - gammaln(up + 1) - gammaln(down + 1) + (1 - power) * math.log(2)
    coefficients = np.where((power - k) % 2 == 0, np.exp(logs), 0.0)
    coefficients[0] /= 2
    return coefficients
