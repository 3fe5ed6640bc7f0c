import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chexseg_jax.data import chexpert
from chexseg_jax.data.chexlocalize import encode
from chexseg_jax.data.taxonomy import CHEXPERT, PALETTE, Taxonomy, read_taxonomy, write_taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.exchange.items import Item
from chexseg_jax.exchange.joining import labels_of_masks
from chexseg_jax.saved_model import Restored

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


def test_a_task_set_is_written_and_read_again_and_replaces_no_other(tmp_path):
    own = Taxonomy(labels=('Nodule "big"', "Ärger"), tasks=('Nodule "big"',), missing="unknown")
    write_taxonomy(tmp_path, CHEXPERT)
    assert not list(tmp_path.iterdir())  # the built-in one needs no file
    write_taxonomy(tmp_path, own)
    write_taxonomy(tmp_path, own)
    assert read_taxonomy(tmp_path) == own
    with pytest.raises(InputError, match=r"tasks.toml: another task set than that of the masks"):
        write_taxonomy(tmp_path, CHEXPERT)
    assert read_taxonomy(tmp_path) == own


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
            'labels = ["a", "b"]\ntasks = ["a"]\n[aliases]\nb = "a"',
            "alias 'b' is the name of a task or label",
        ),
        ('labels = ["a"]\ntasks = ["a"]\n[aliases]\nb = "c"', "'c', which is neither a task nor a label"),
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


#: Of linear RGB, at full severity: Machado, Oliveira and Fernandes, IEEE TVCG 15 (2009), table 1.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
#: OKLab (Ottosson, 2020) from linear RGB, before and after the cube root.
CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OPPONENTS = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_colours_stay_apart_for_colour_blind_readers(sight):
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.cbrt(np.clip(linear @ np.transpose(SIGHTS[sight]), 0, 1) @ np.transpose(CONES))
    lab = seen @ np.transpose(OPPONENTS)
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1) + np.eye(len(lab))
    assert apart[:10, :10].min() > 0.11
    assert apart.min() > 0.08


def test_label_of_speaks_for_a_task_also_where_another_label_has_its_name():
    taxonomy = Taxonomy(("Nodule", "Mass"), ("Nodule",), {"Nodule": "Mass"})
    assert taxonomy.label_indices == [1]
    assert taxonomy.label("Nodule") == "Nodule"  # of two columns, each keeps its own name
    labels = np.array([[0, 1], [1, 0]], np.float32)
    assert chexpert.positive_tasks(labels, "zeros", taxonomy).tolist() == [[True], [False]]
    classifier = SimpleNamespace(taxonomy=taxonomy, tasks=taxonomy.labels)
    assert Restored.outputs_of(classifier, taxonomy).tolist() == [1]
    item = Item("a", Path("a.png"), masks={"Nodule": encode(np.ones((2, 2), bool))})
    assert labels_of_masks(item, taxonomy) == {"Mass": 1.0}
