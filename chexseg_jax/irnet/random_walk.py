"""The random walk that propagates a saliency map up to the boundaries (Ahn et al. 2019, section 4.3).

The states are the pixels in row-major order. The walk is x T^t from x = cam * (1 - boundary), with T = A^beta / its
column sums. For pairs nearer than `radius`, a_ij = 1 - max of the boundary map on the path from i to j; a_ii = 1.

A is symmetric, and the neighbour at (dy, dx) is always dy * width + dx states ahead. So A is the identity plus one pair
of diagonals, a band, per direction (34 at radius 5). It takes directions x pixels numbers, where a dense matrix takes
pixels^2, and a product is one shifted multiply-add per band and sign.
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

from chexseg_jax.errors import InputError
from chexseg_jax.irnet.paths import affinities, margin, paths
from chexseg_jax.models.cpu import on_cpu

#: Error of the truncated expansion in `_power`, relative to the walk's start: below float32's rounding.
_TOLERANCE = 1e-8


class Bands(NamedTuple):
    """The upper diagonals of the symmetric A^beta.

    Attributes:
      offsets: j - i of each band.
      weights: a_ij^beta at [band, i]; zero if the neighbour lies outside the image.
      degrees: column sums of A^beta, including the diagonal's 1.
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
    beta: int | float = 10,
    exp_times: int = 8,
) -> Float[Array, "*B H W C"]:
    """Walk 2^exp_times steps from cam * (1 - edge).

    Args:
      cam: saliency >= 0 of any number of classes or instances, which walk independently.
      edge: probability of a boundary in [0, 1].
      radius: link pairs nearer than this, in pixels; at least 2.
      beta: power of the affinities, above 0; a larger one crosses fewer boundaries.
      exp_times: log2 of the number of steps; the published code squares the matrix as many times.

    Returns:
      >= 0, not normalised.

    Raises:
      InputError: for a radius or a beta out of range.
    """
    *batch, height, width, channels = cam.shape
    bands = to_bands(edge, radius=radius, beta=beta)
    start = jnp.moveaxis(cam * (1 - edge[..., None]), -1, -3).reshape(*batch, channels, height * width)
    end = jnp.maximum(_power(bands, start, 2**exp_times), 0)
    return jnp.moveaxis(end.reshape(*batch, channels, height, width), -3, -1)


def to_bands(edge: Float[Array, "*B H W"], *, radius: int, beta: int | float) -> Bands:
    """Compute A^beta from the probability of a boundary."""
    if beta <= 0:  # 0 ** 0 = 1 would link the pixels of opposite edges
        raise InputError(f"beta={beta:g} must be more than 0")
    *batch, height, width = edge.shape
    reach = margin(radius)
    # Pad with boundary, so that pairs which leave the image get affinity 0.
    walled = jnp.pad(edge, [(0, 0)] * len(batch) + [(0, reach), (reach, reach)], constant_values=1.0)
    within = [k for k, ((dy, dx), _) in enumerate(paths(radius)) if dy < height and abs(dx) < width]
    offsets = tuple(dy * width + dx for (dy, dx), _ in (paths(radius)[k] for k in within))
    bands = affinities(walled, radius=radius)[np.array(within, int)] ** beta
    weights = jnp.moveaxis(bands, 0, -3).reshape(*batch, len(within), height * width)
    far, n = max(offsets, default=0), height * width
    padded = _pad(weights, far)
    behind = sum(
        padded[..., None, band, far - offset : far - offset + n] for band, offset in enumerate(offsets)
    )
    return Bands(offsets, weights, 1 + weights.sum(-2, keepdims=True) + behind)


def transition_matrix(edge: Float[Array, "H W"], *, radius: int, beta: int | float) -> sparse.BCOO:
    """Build T [n, n] of one image as JAX's sparse matrix, to read and to check against. A walk is x @ T @ T ..."""
    offsets, weights, degrees = to_bands(edge, radius=radius, beta=beta)
    n = weights.shape[-1]
    rows, columns, values = [np.arange(n)], [np.arange(n)], [jnp.ones(n)]
    for offset, band in zip(offsets, weights, strict=True):
        first = np.arange(n - offset)
        rows += [first, first + offset]
        columns += [first + offset, first]
        values += [band[: n - offset]] * 2
    indices = np.stack([np.concatenate(rows), np.concatenate(columns)], axis=1)
    data = jnp.concatenate(values) / degrees[0, indices[:, 1]]
    return sparse.BCOO((data, jnp.asarray(indices)), shape=(n, n))


def _both_ways(bands: Bands) -> list[tuple[Array, Array]]:
    """Each band's weights [*B, 1, n] towards the neighbour ahead and towards the one behind, at every state."""
    n, far = bands.weights.shape[-1], max(bands.offsets, default=0)
    padded = _pad(bands.weights, far)
    return [
        (padded[..., None, band, far : far + n], padded[..., None, band, far - offset : far - offset + n])
        for band, offset in enumerate(bands.offsets)
    ]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _flow(
    offsets: tuple[int, ...], weights: list[tuple[Array, Array]], x: Float[Array, "*B C n"]
) -> Float[Array, "*B C n"]:
    """Compute x A - x diag(degrees), the net flow into each state from the neighbours behind and ahead.

    It sums differences, so that rounding of a flat map does not accumulate over hundreds of steps.
    """
    flow = jnp.zeros_like(x)
    for weight, difference in zip(weights, _differences(offsets, x), strict=True):
        for one_way, change in zip(weight, difference, strict=True):
            flow += one_way * change
    return flow


def _differences(offsets: tuple[int, ...], x: Float[Array, "*B C n"]) -> list[tuple[Array, Array]]:
    """Of each band, x of the neighbour ahead and of the one behind, less x."""
    n, far = x.shape[-1], max(offsets, default=0)
    padded = _pad(x, far)
    return [
        (padded[..., far + offset : far + offset + n] - x, padded[..., far - offset : far - offset + n] - x)
        for offset in offsets
    ]


def _pad(x: Float[Array, "... n"], far: int) -> Float[Array, "... n+2*{far}"]:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(far, far)])


def _flow_forward(offsets, weights, x):
    return _flow(offsets, weights, x), (weights, x)


def _flow_backward(offsets, saved, dy):
    weights, x = saved
    dweights = jax.tree.map(
        lambda difference: (difference * dy).sum(-2, keepdims=True), _differences(offsets, x)
    )
    return dweights, _flow(offsets, weights, dy)  # A is symmetric


_flow.defvjp(_flow_forward, _flow_backward)


def _power(bands: Bands, x: Float[Array, "*B C n"], steps: int) -> Float[Array, "*B C n"]:
    """Compute x T^steps.

    T is similar to a symmetric matrix with eigenvalues in [-1, 1]. There z^s equals a polynomial of degree d to within
    2 exp(-d^2 / 2s): its Chebyshev expansion z^s = 2^(1-s) sum_k binom(s, (s-k)/2) T_k(z), with k of the parity of s
    and T_0 halved, truncated at d (Sachdeva and Vishnoi, Faster Algorithms via Approximation Theory, 2014, section 3).
    So 256 steps take 99 products, and four times the steps take twice the products.
    """

    # Before the loop on a GPU, where XLA may copy every slice again at each step; a CPU reads slices in place.
    before = None if on_cpu() else _both_ways(bands)

    def change(x: Array) -> Array:  # x T - x
        weights = _both_ways(bands) if before is None else before
        return _flow(bands.offsets, weights, x) / bands.degrees

    degree = math.ceil(math.sqrt(2 * steps * math.log(2 / _TOLERANCE)))
    if degree >= steps:
        return jax.lax.fori_loop(0, steps, lambda _, x: x + change(x), x)
    coefficients = jnp.asarray(_chebyshev_of_power(steps, degree), x.dtype)

    def add_term(k, carry):
        term, difference, total = carry
        difference += 2 * change(term)  # T_{k+1} - T_k = T_k - T_{k-1} + 2 (z - 1) T_k
        return term + difference, difference, total + coefficients[k] * (term + difference)

    difference = change(x)
    carry = (x + difference, difference, coefficients[0] * x + coefficients[1] * (x + difference))
    return jax.lax.fori_loop(2, degree + 1, add_term, carry)[2]


def _chebyshev_of_power(power: int, degree: int) -> Float[np.ndarray, " {degree}+1"]:
    """Coefficients of T_0 ... T_degree in z^power."""
    k = np.arange(degree + 1)
    up, down = (power + k) / 2, (power - k) / 2
    logs = gammaln(power + 1) - gammaln(up + 1) - gammaln(down + 1) + (1 - power) * math.log(2)
    coefficients = np.where((power - k) % 2 == 0, np.exp(logs), 0.0)
    coefficients[0] /= 2
    return coefficients
