import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.data.split import split_expert
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError

TASKS, COMMON_TASKS = CHEXPERT.tasks, CHEXPERT.common
COMMON = [TASKS.index(task) for task in COMMON_TASKS]
LESION, CARDIOMEGALY = TASKS.index("Lung Lesion"), TASKS.index("Cardiomegaly")


def positives(count: int, seed: int = 0) -> np.ndarray:
    rates = np.where([task in COMMON_TASKS for task in TASKS], 0.5, 0.1)
    return np.random.default_rng(seed).random((count, 10)) < rates


def test_150_and_50_with_the_scarce_kept_for_training():
    positive = positives(200)
    train, validation = split_expert(positive, COMMON, share=0.25, seed=0)
    assert (len(train), len(validation)) == (150, 50)
    rarest = min(
        (k for k, t in enumerate(TASKS) if t not in COMMON_TASKS), key=lambda k: positive[:, k].sum()
    )
    assert not positive[validation, rarest].any()


@given(count=st.integers(4, 60), share=st.floats(0.1, 0.9), seed=st.integers(0, 100))
def test_it_is_a_partition(count, share, seed):
    wanted = round(share * count)
    if not 0 < wanted < count:
        return
    train, validation = split_expert(positives(count, seed), COMMON, share=share, seed=seed)
    assert sorted([*train, *validation]) == list(range(count))
    assert len(validation) == wanted


def test_it_is_judged_by_a_common_task_even_where_few_images_show_one():
    positive = np.zeros((20, 10), bool)
    positive[:, LESION] = True
    positive[:6, CARDIOMEGALY] = True
    _, validation = split_expert(
        positive, COMMON, share=0.25, seed=0
    )  # all show the scarce one: none can be kept out
    assert len(validation) == 5


def test_the_seed_decides():
    a, b, c = (split_expert(positives(100), COMMON, share=0.25, seed=s)[1].tolist() for s in (1, 1, 2))
    assert a == b != c


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (10, 0.0), (10, 1.0)])
def test_an_empty_part_is_refused(count, share):
    with pytest.raises(InputError, match="cannot be split"):
        split_expert(np.ones((count, 10), bool), COMMON, share=share, seed=0)
