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


def split(positive, patients=None, *, validation, seed=0):
    """Each image is its own patient unless `patients` says otherwise."""
    patients = [f"patient{i}" for i in range(len(positive))] if patients is None else patients
    return split_expert(positive, list(patients), COMMON, validation=float(validation), seed=seed)


def test_150_and_50_with_the_scarce_kept_for_training():
    positive = positives(200)
    train, validation = split(positive, validation=0.25)
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
    train, validation = split(positives(count, seed), validation=share, seed=seed)
    assert sorted([*train, *validation]) == list(range(count))
    assert len(validation) == wanted


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=20),
    share=st.floats(0.2, 0.8),
    seed=st.integers(0, 9),
)
def test_no_patient_is_on_both_sides(sizes, share, seed):
    patients = np.repeat([f"patient{i}" for i in range(len(sizes))], sizes)
    patients = np.random.default_rng(seed).permutation(patients)
    if not 0 < round(share * len(patients)) < len(patients):
        return
    train, validation = split(np.ones((len(patients), 10), bool), patients, validation=share, seed=seed)
    assert sorted([*train, *validation]) == list(range(len(patients)))
    assert min(len(train), len(validation)) > 0
    assert not set(patients[train]) & set(patients[validation])


def test_a_number_of_validation_images_is_met_with_whole_patients():
    """187 images of 150 patients, as in CheXlocalize's validation set: 147 and 40, as in the published code."""
    patients = [f"patient{i % 150}" for i in range(187)]
    for seed in range(3):
        train, validation = split(positives(187), patients, validation=40.0, seed=seed)
        assert (len(train), len(validation)) == (147, 40)


@pytest.mark.parametrize(("wanted", "closest"), [(1, 3), (4, 3), (5, 6), (10, 9)])
def test_where_no_patients_add_up_to_the_number_it_is_the_closest(wanted, closest):
    """Four patients of three images each."""
    _, validation = split(np.ones((12, 10), bool), np.repeat([*"abcd"], 3), validation=wanted)
    assert len(validation) == closest


def test_all_images_of_a_patient_with_a_scarce_task_are_for_training():
    positive = np.zeros((20, 10), bool)
    positive[:, CARDIOMEGALY] = True
    positive[0, LESION] = True  # the patient's other image has only the common task
    patients = ["scarce", "scarce", *map(str, range(18))]
    for seed in range(10):
        train, validation = split(positive, patients, validation=10, seed=seed)
        assert {0, 1} <= set(train.tolist())
        assert len(validation) == 10


def test_the_rarest_task_is_kept_for_training_first_and_as_long_as_enough_images_remain():
    positive = np.zeros((20, 10), bool)
    positive[:, CARDIOMEGALY] = True
    positive[:2, LESION] = True
    positive[2:14, TASKS.index("Edema")] = True  # without these, six images remain
    for seed in range(10):
        assert {0, 1} <= set(split(positive, validation=10, seed=seed)[0].tolist())
    assert split(positive, validation=18)[0].tolist() == [0, 1]


def test_it_is_judged_by_a_common_task_even_where_few_images_show_one():
    positive = np.zeros((20, 10), bool)
    positive[:, LESION] = True
    positive[:6, CARDIOMEGALY] = True
    _, validation = split(positive, validation=0.25)  # all show the scarce one: none can be kept out
    assert len(validation) == 5


def test_the_seed_decides():
    a, b, c = (split(positives(100), validation=0.25, seed=s)[1].tolist() for s in (1, 1, 2))
    assert a == b != c


@pytest.mark.parametrize(("count", "validation"), [(1, 0.5), (10, 0.0), (10, 10.0), (36, 40.0)])
def test_an_empty_part_is_refused(count, validation):
    with pytest.raises(InputError, match=r"cannot be split .* config\.data\.validation") as error:
        split(np.ones((count, 10), bool), validation=validation)
    assert "\n" not in str(error.value)


def test_a_single_patient_is_refused():
    with pytest.raises(InputError, match=r"8 images with masks \(patients: 1\) cannot be split"):
        split(np.ones((8, 10), bool), ["patient1"] * 8, validation=0.25)
