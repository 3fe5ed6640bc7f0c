import json

import pytest

from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy, read_taxonomy
from chexseg_jax.errors import InputError

NODULES = """
labels = ["Nodule", "Fracture", "No Finding"]
tasks = ["Nodule", "Rib Fracture"]
missing = "unknown"
[label_of]
"Rib Fracture" = "Fracture"
[aliases]
"Lung Nodule" = "Nodule"
"""


def test_chexperts_ten_tasks_are_among_its_fourteen_labels():
    assert (len(CHEXPERT.tasks), len(CHEXPERT.labels), CHEXPERT.planes) == (10, 14, 2)
    assert [CHEXPERT.labels[i] for i in CHEXPERT.label_indices] == ["Lung Opacity", *CHEXPERT.tasks[1:]]
    assert set(CHEXPERT.common) < set(CHEXPERT.tasks)


def test_both_names_of_airspace_opacity():
    assert CHEXPERT.task("Lung Opacity") == CHEXPERT.task("Airspace Opacity") == "Airspace Opacity"
    assert CHEXPERT.label("Lung Opacity") == CHEXPERT.label("Airspace Opacity") == "Lung Opacity"


@pytest.mark.parametrize("lookup", [CHEXPERT.task, CHEXPERT.label])
def test_an_unknown_name_lists_the_known(lookup):
    with pytest.raises(InputError, match=r"'Lung'.*Pneumothorax"):
        lookup("Lung")


def test_a_label_without_a_task():
    assert CHEXPERT.label("Fracture") == "Fracture"
    with pytest.raises(InputError):
        CHEXPERT.task("Fracture")


def test_a_tasks_file_gives_another_task_set(tmp_path):
    assert read_taxonomy(tmp_path) is CHEXPERT
    (tmp_path / "tasks.toml").write_text(NODULES)
    taxonomy = read_taxonomy(tmp_path)
    assert taxonomy.tasks == ("Nodule", "Rib Fracture")
    assert taxonomy.label_indices == [0, 1]
    assert taxonomy.task("Lung Nodule") == "Nodule"
    assert taxonomy.missing == "unknown"
    assert len(taxonomy.colours) == 2


def test_a_taxonomy_survives_json():
    for taxonomy in (CHEXPERT, Taxonomy(("a", "b"), ("b",), common=("b",))):
        assert Taxonomy.from_dict(json.loads(json.dumps(taxonomy.to_dict()))) == taxonomy


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("labels = [", "not a TOML file"),
        ('labels = ["a"]', "no entry 'tasks'"),
        ('labels = ["a"]\ntasks = "a"', "tasks must be a list of strings"),
        ('labels = ["a"]\ntasks = []', "0 tasks: a task set has 1 to 64"),
        ('labels = ["a"]\ntasks = ["a", "a"]', "task 'a' is listed twice"),
        ('labels = ["a"]\ntasks = ["b"]', "task 'b' has no label 'b'"),
        ('labels = ["a"]\ntasks = ["a"]\ncommon = ["c"]', "'c' is not a task"),
        ('labels = ["a"]\ntasks = ["a"]\nmissing = "absent"', "must be one of empty, unknown"),
        ('labels = ["a"]\ntasks = ["a"]\ncolors = ["#fff"]', "unknown entry 'colors'"),
        (
            'labels = ["a"]\ntasks = ["a"]\ncolours = ["crimson"]',
            "colour 'crimson' must be #rrggbb, such as #999911",
        ),
        (
            'labels = ["a"]\ntasks = ["a"]\ncolours = []\nlabel_of = ["a"]',
            "label_of must be a table of strings",
        ),
    ],
)
def test_a_wrong_tasks_file_is_refused_by_name(tmp_path, text, complaint):
    (tmp_path / "tasks.toml").write_text(text)
    with pytest.raises(InputError, match=complaint) as error:
        read_taxonomy(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "tasks.toml"))
