"""The walk, compared with the published code and with a dense float64 matrix power built pair by pair."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import distance, irn
from hypothesis import given, settings
from hypothesis import strategies as st

from chexseg_jax.errors import InputError
from chexseg_jax.irnet.paths import affinities, paths
from chexseg_jax.irnet.random_walk import propagate, to_bands, transition_matrix
from chexseg_jax.models import cpu


def affinity_matrix(edge: np.ndarray, radius: int, beta: float) -> np.ndarray:
    """Build the dense A^beta by a loop over every pair of pixels."""
    height, width = edge.shape
    edge = edge.astype(np.float64)
    matrix = np.eye(height * width)
    for y, x in np.ndindex(height, width):
        for (dy, dx), pixels in paths(radius):
            if y + dy < height and 0 <= x + dx < width:
                first, second = y * width + x, (y + dy) * width + x + dx
                wall = max(edge[y + j, x + i] for j, i in pixels)
                matrix[first, second] = matrix[second, first] = (1 - wall) ** beta
    return matrix


def dense_walk(cam, edge, radius, beta, exp_times):
    matrix = affinity_matrix(edge, radius, beta)
    matrix /= matrix.sum(0, keepdims=True)
    start = (cam.astype(np.float64) * (1 - edge[..., None])).reshape(-1, cam.shape[-1])
    end = start.T @ np.linalg.matrix_power(matrix, 2**exp_times)
    return end.T.reshape(cam.shape)


def scene(height, width, channels=3, seed=0):
    """Draw saliency, and a boundary map with walls and openings."""
    rng = np.random.default_rng(seed)
    edge = (rng.random((height, width)) ** 3).astype(np.float32)
    cam = np.maximum(rng.standard_normal((height, width, channels)), 0).astype(np.float32)
    return cam, edge


@pytest.mark.parametrize("name", "abc")
def test_the_published_walk(name):
    height, width, radius, beta, exp_times = map(int, irn(f"walk_{name}_params"))
    cam = irn(f"walk_{name}_cam").transpose(1, 2, 0)
    walked = propagate(cam, irn(f"walk_{name}_edge")[0], radius=radius, beta=beta, exp_times=exp_times)
    published = irn(f"walk_{name}_out")[:, 0].transpose(1, 2, 0)
    assert walked.shape == (height, width, 3)
    assert distance(walked, published) < 1e-4


@pytest.mark.parametrize(
    ("height", "width", "radius", "beta", "exp_times"),
    [
        (12, 12, 5, 10, 8),
        (9, 17, 5, 10, 6),
        (17, 9, 3, 5, 3),
        (20, 11, 7, 1, 5),
        (6, 4, 5, 8, 4),
        (3, 30, 10, 2.5, 7),
        (1, 8, 5, 10, 2),
        (8, 8, 2, 10, 10),
        (10, 10, 5, 10, 0),
    ],
)
def test_the_walk_equals_a_dense_matrix_power(height, width, radius, beta, exp_times):
    cam, edge = scene(height, width, seed=height)
    walked = propagate(cam, edge, radius=radius, beta=beta, exp_times=exp_times)
    assert distance(walked, dense_walk(cam, edge, radius, beta, exp_times)) < 1e-5


@pytest.mark.parametrize(("height", "width", "radius", "beta"), [(10, 7, 5, 10), (5, 12, 3, 2), (4, 3, 5, 1)])
def test_both_forms_of_the_transition_matrix_agree(height, width, radius, beta):
    cam, edge = scene(height, width)
    sparse = jax.jit(partial(transition_matrix, radius=radius, beta=beta))(edge)
    dense = affinity_matrix(edge, radius, beta)
    dense /= dense.sum(0, keepdims=True)
    assert distance(sparse.todense(), dense) < 1e-6
    assert sparse.nse < height * width * (2 * len(paths(radius)) + 1) + 1
    expected = jnp.asarray((cam * (1 - edge[..., None])).reshape(-1, 3).T)
    for _ in range(8):
        expected = expected @ sparse
    walked = propagate(cam, edge, radius=radius, beta=beta, exp_times=3)
    assert distance(walked.reshape(-1, 3).T, expected) < 1e-5


@settings(max_examples=10)
@given(seed=st.integers(0, 999), exp_times=st.sampled_from([0, 3, 8]))
def test_the_walk_preserves_weighted_mass_and_flat_maps_and_stays_within_bounds(seed, exp_times):
    cam, edge = scene(11, 14, seed=seed)
    degrees = to_bands(jnp.asarray(edge), radius=5, beta=4).degrees[0]
    start = cam * (1 - edge[..., None])
    end = np.asarray(propagate(cam, edge, radius=5, beta=4, exp_times=exp_times))
    np.testing.assert_allclose(degrees @ end.reshape(-1, 3), degrees @ start.reshape(-1, 3), rtol=1e-4)
    assert (end >= 0).all()
    assert (end <= start.max((0, 1)) * (1 + 1e-4)).all()
    flat = np.asarray(propagate(1 / (1 - edge[..., None]), edge, radius=5, beta=4, exp_times=exp_times))
    np.testing.assert_allclose(flat, 1, rtol=1e-4)


def test_walks_commute_with_mirroring_and_transposing():
    cam, edge = scene(13, 9)
    walk = {"radius": 5, "beta": 10, "exp_times": 5}
    walked, mirrored = propagate(cam, edge, **walk), propagate(cam[:, ::-1], edge[:, ::-1], **walk)
    np.testing.assert_allclose(mirrored[:, ::-1], walked, rtol=1e-4, atol=1e-6)
    transposed = propagate(cam.swapaxes(0, 1), edge.T, **walk)
    np.testing.assert_allclose(transposed.swapaxes(0, 1), walked, rtol=1e-4, atol=1e-6)


def test_nothing_crosses_a_closed_wall():
    edge = np.zeros((9, 9), np.float32)
    edge[:, 4] = 1
    cam = np.zeros((9, 9, 1), np.float32)
    cam[4, 1] = 1
    end = np.asarray(propagate(cam, edge, exp_times=8))[..., 0]
    assert np.abs(end[:, 4:]).max() < 1e-7
    assert end[:, :4].min() > 0


@pytest.mark.parametrize("beta", [0, -1.0])
def test_a_beta_that_links_opposite_edges_or_divides_by_zero_is_refused(beta):
    cam, edge = scene(6, 6)
    with pytest.raises(InputError, match=f"beta={beta:g} must be more than 0"):
        propagate(cam, edge, radius=2, beta=beta, exp_times=0)


def test_a_batch_walks_like_single_images():
    scenes = [scene(8, 10, seed=seed) for seed in range(3)]
    cams, edges = map(np.stack, zip(*scenes, strict=True))
    batch = propagate(cams, edges, exp_times=7)
    for walked, (cam, edge) in zip(batch, scenes, strict=True):
        np.testing.assert_allclose(walked, propagate(cam, edge, exp_times=7), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("exp_times", [3, 8])
def test_gradients_are_finite_and_correct(exp_times):
    cam, edge = scene(7, 8, channels=2)
    edge = 0.05 + 0.9 * edge  # no ties: the maximum on a path has no derivative at one
    target = np.random.default_rng(1).standard_normal(cam.shape).astype(np.float32)

    def score(cam, edge):
        return (propagate(cam, edge, radius=3, beta=3, exp_times=exp_times) * target).sum()

    by_cam, by_edge = jax.grad(score, (0, 1))(cam, edge)
    assert np.isfinite(by_cam).all()
    assert np.isfinite(by_edge).all()
    direction = np.random.default_rng(2).standard_normal(edge.shape)
    step = 1e-7  # in a larger one, another pixel could become the maximum of a path
    ahead, behind = (
        (dense_walk(cam, edge + s * step * direction, 3, 3, exp_times) * target).sum() for s in (1, -1)
    )
    assert (by_edge * direction).sum() == pytest.approx((ahead - behind) / (2 * step), rel=1e-2)


def test_the_walk_and_its_gradients_are_the_same_without_the_loops_of_a_cpu():
    cam, edge = scene(14, 17)

    def results():
        def total(cam, edge):
            walked = propagate(cam, edge, radius=4, beta=5, exp_times=3)
            return (walked**2).sum(), walked

        return jax.value_and_grad(total, (0, 1), has_aux=True)(cam, edge)

    on_cpu = results()
    with cpu.override(False):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6), results(), on_cpu)
        assert "scan[" not in str(jax.make_jaxpr(lambda e: affinities(e, radius=4))(edge))


def test_the_program_holds_no_dense_matrix():
    """A dense matrix at 128x128 would take 1 GB."""
    shapes = jax.ShapeDtypeStruct((128, 128, 10), jnp.float32), jax.ShapeDtypeStruct((128, 128), jnp.float32)
    memory = propagate.lower(*shapes, radius=5, beta=10, exp_times=8).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 300e6
