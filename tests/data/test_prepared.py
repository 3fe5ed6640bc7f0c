import dataclasses

import numpy as np
import pytest

from chexseg_jax.data.images import pack_masks
from chexseg_jax.data.prepared import Examples, Prepared
from chexseg_jax.data.records import Records
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError


@pytest.fixture
def prepared() -> Prepared:
    draw = np.random.default_rng(0)
    return Prepared(
        ids=tuple(f"patient{i}_study1_view1_frontal" for i in range(4)),
        images=draw.integers(0, 256, (4, 8, 8), dtype=np.uint8),
        labels=draw.choice([1, 0, -1, np.nan], (4, 14)).astype(np.float32),
        sizes=draw.integers(8, 30, (4, 2), dtype=np.int32),
        taxonomy=CHEXPERT,
        masks=pack_masks(draw.random((4, 8, 8, 10)) < 0.5),
        known=draw.random((4, 10)) < 0.7,
        listed=np.array([True, False, True, False]),
    )


@pytest.mark.parametrize("masked", [True, False])
def test_round_trip_on_disk(prepared, tmp_path, masked):
    if not masked:
        prepared = prepared.with_masks(None)
    prepared.save(tmp_path)
    loaded = Prepared.load(tmp_path)
    assert isinstance(loaded.images, Records)  # it does not grow with the set in memory
    assert loaded.ids == prepared.ids
    assert loaded.size == 8
    assert loaded.taxonomy == CHEXPERT
    assert loaded.listed.tolist() == ([True, False, True, False] if masked else [False] * 4)
    for name in ("images", "labels", "sizes", "known"):
        np.testing.assert_array_equal(getattr(loaded, name)[:], getattr(prepared, name))
    assert (loaded.masks is None) == (not masked)
    if masked:
        np.testing.assert_array_equal(loaded.masks[:], prepared.masks)


@pytest.mark.usefixtures("without_links")
def test_a_chosen_set_with_other_masks_points_to_the_images(prepared, tmp_path):
    for name in ("whole", "chosen"):
        (tmp_path / name).mkdir()
    prepared.save(tmp_path / "whole")
    chosen = Prepared.load(tmp_path / "whole").take([3, 1]).with_masks(prepared.masks[:2])
    chosen.save(tmp_path / "chosen")
    (tmp_path / "chosen").rename(tmp_path / "renamed")
    loaded = Prepared.load(tmp_path / "renamed")
    assert loaded.ids == (prepared.ids[3], prepared.ids[1])
    np.testing.assert_array_equal(loaded.images[:], prepared.images[[3, 1]])
    np.testing.assert_array_equal(loaded.masks[:], prepared.masks[:2])
    (tmp_path / "whole").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="whole/images: no records"):
        Prepared.load(tmp_path / "renamed")


def test_a_set_of_an_earlier_version_links_to_the_images(prepared, tmp_path):
    for name in ("whole", "chosen"):
        (tmp_path / name).mkdir()
    prepared.save(tmp_path / "whole")
    Prepared.load(tmp_path / "whole").take([3, 1]).save(tmp_path / "chosen")
    for name in ("images", "masks"):
        (tmp_path / "chosen" / f"{name}.folder").unlink()
        (tmp_path / "chosen" / name).symlink_to(f"../whole/{name}")
    loaded = Prepared.load(tmp_path / "chosen")
    for name in ("images", "masks"):
        np.testing.assert_array_equal(getattr(loaded, name)[:], getattr(prepared, name)[[3, 1]])


def test_has_mask_is_true_for_known_masks_with_a_pixel(prepared):
    masks = np.zeros((4, 8, 8, 10), bool)
    masks[1, 2, 3, 0] = masks[1, 7, 7, 9] = masks[2, 0, 0, 1] = True
    has_mask = prepared.with_masks(pack_masks(masks)).has_mask()
    assert [list(np.flatnonzero(row)) for row in has_mask] == [[], [0, 9], [1], []]
    known = np.ones((4, 10), bool)
    known[1, 9] = False
    assert list(np.flatnonzero(prepared.with_masks(pack_masks(masks), known).has_mask()[1])) == [0]


def test_take_keeps_the_arrays_aligned(prepared):
    few = prepared.take([2, 0])
    assert few.ids == (prepared.ids[2], prepared.ids[0])
    for name in ("images", "labels", "sizes", "masks", "known", "listed"):
        np.testing.assert_array_equal(getattr(few, name), getattr(prepared, name)[[2, 0]])


def test_examples_are_aligned_rows(prepared):
    targets = np.eye(4, 14, dtype=np.float32)
    examples = Examples(image=prepared.images, targets=targets)
    assert len(examples) == 4
    np.testing.assert_array_equal(examples[3]["image"], prepared.images[3])
    np.testing.assert_array_equal(examples.take(np.array([2, 0]))[1]["targets"], targets[0])


def test_task_labels_are_the_columns_that_speak_for_the_tasks(prepared):
    numbered = dataclasses.replace(prepared, labels=np.tile(np.arange(14, dtype=np.float32), (4, 1)))
    columns = numbered.task_labels[0]
    assert [CHEXPERT.labels[int(i)] for i in columns] == ["Lung Opacity", *CHEXPERT.tasks[1:]]
