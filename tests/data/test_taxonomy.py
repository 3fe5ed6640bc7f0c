import pytest

from chexseg_jax.data.taxonomy import COMMON_TASKS, LABELS, TASKS, label_indices, label_name, task_name
from chexseg_jax.errors import InputError


def test_ten_tasks_are_among_the_fourteen_labels():
    assert len(TASKS) == 10
    assert len(LABELS) == 14
    assert [LABELS[i] for i in label_indices()] == ["Lung Opacity", *TASKS[1:]]
    assert set(COMMON_TASKS) < set(TASKS)


def test_both_names_of_airspace_opacity():
    assert task_name("Lung Opacity") == task_name("Airspace Opacity") == "Airspace Opacity"
    assert label_name("Lung Opacity") == label_name("Airspace Opacity") == "Lung Opacity"


@pytest.mark.parametrize("function", [task_name, label_name])
def test_an_unknown_name_lists_the_known(function):
    with pytest.raises(InputError, match=r"'Lung'.*Pneumothorax"):
        function("Lung")


def test_a_label_that_is_no_task():
    assert label_name("Fracture") == "Fracture"
    with pytest.raises(InputError):
        task_name("Fracture")
