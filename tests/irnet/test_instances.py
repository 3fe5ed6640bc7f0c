import numpy as np
import pytest
from golden.peers import irn

from chexseg_jax.irnet.instances import centroids, instances


def field_to(centres: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Make a field that points from every pixel to its owner's centre."""
    grid = np.stack(np.meshgrid(*map(np.arange, owner.shape), indexing="ij"), -1)
    return (centres[owner] - grid).astype(np.float32)


def test_centroids_and_instances_match_the_published_code():
    field = irn("centroid_displacement").transpose(1, 2, 0)
    centres = np.asarray(centroids(field))
    np.testing.assert_array_equal(centres, irn("centroids").transpose(1, 2, 0))
    shape = irn("instance_masks_shape")
    masks = np.unpackbits(irn("instance_masks"))[: np.prod(shape)].reshape(shape)
    np.testing.assert_array_equal(instances(centres, field), masks)


@pytest.mark.parametrize("shape", [(24, 24), (16, 30)])
def test_a_perfect_field_gives_each_owner_its_instance(shape):
    owner = np.zeros(shape, int)
    owner[:, shape[1] // 2 :] = 1
    centres = np.array([[shape[0] / 2, shape[1] / 4], [shape[0] / 2, 3 * shape[1] / 4]])
    field = field_to(centres, owner)
    reached = np.asarray(centroids(field))
    np.testing.assert_array_equal(reached, np.round(centres[owner]))
    masks = instances(reached, field)
    assert masks.sum(0).max() == masks.sum(0).min() == 1
    np.testing.assert_array_equal(masks[:2].argmax(0), owner)


def test_a_field_that_leaves_the_map_stops_at_its_border():
    field = np.full((6, 9, 2), 3.0, np.float32)
    centres = np.asarray(centroids(field))
    assert (centres == [5, 8]).all()
    assert instances(centres, field).shape == (1, 6, 9)  # strong everywhere: a single group
