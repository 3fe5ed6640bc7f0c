import json

import jax.numpy as jnp
import numpy as np
import pytest
from golden.peers import FOLDER, irn

from chexseg_jax.errors import InputError
from chexseg_jax.irnet.paths import affinities, margin, paths, shifted, table
from chexseg_jax.models import cpu


@pytest.mark.parametrize("radius", [3, 5, 10])
def test_directions_and_path_lengths_match_the_published_code(radius):
    ours = paths(radius)
    assert [list(path.dst) for path in ours] == irn(f"search_dst_r{radius}").tolist()
    assert sorted({len(path.pixels) for path in ours}) == irn(f"n_path_lengths_r{radius}").tolist()


def test_path_pixels_match_the_published_code():
    published = json.loads((FOLDER / "irn_paths_r5.json").read_text())
    assert [[list(p) for p in path.pixels] for path in paths(5)] == [entry["path"] for entry in published]


@pytest.mark.parametrize("radius", range(2, 12))
def test_every_unordered_pair_within_the_radius_appears_once(radius):
    directions = [path.dst for path in paths(radius)]
    disc = {
        (y, x)
        for y in range(-radius, radius + 1)
        for x in range(-radius, radius + 1)
        if 0 < y * y + x * x < radius * radius
    }
    assert len(directions) == len(set(directions)) == len(disc) // 2
    assert {*directions, *((-y, -x) for y, x in directions)} == disc
    assert max(max(abs(y), abs(x)) for y, x in directions) == margin(radius)


def test_paths_join_both_ends_without_a_gap():
    for path in paths(7):
        assert path.pixels[0] == path.dst
        assert path.pixels[-1] == (0, 0)
        reached, todo = set(), [path.dst]
        while todo:
            y, x = todo.pop()
            reached.add((y, x))
            todo += [p for p in path.pixels if p not in reached and abs(p[0] - y) + abs(p[1] - x) <= 1]
        assert reached == set(path.pixels)


def test_no_pair_is_nearer_than_one_pixel():
    assert paths(1) == ()
    with pytest.raises(InputError, match="radius=1 must be at least 2"):
        table(1)
    with cpu.override(False), pytest.raises(InputError, match="radius=1 must be at least 2"):
        affinities(jnp.zeros((8, 8)), radius=1)


def test_shifted_reads_the_neighbour():
    height, width, radius = 9, 13, 4
    index = jnp.arange(height * width).reshape(height, width)
    reach = margin(radius)
    here = shifted(index, (0, 0), reach)
    assert here.shape == (height - reach, width - 2 * reach)
    for path in paths(radius):
        dy, dx = path.dst
        np.testing.assert_array_equal(shifted(index, path.dst, reach) - here, dy * width + dx)
