from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chexseg_jax.data import chexpert
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.errors import InputError

NAN = float("nan")
TRAIN = "CheXpert-v1.0-small/train"


def row(patient, view="view1_frontal", **labels):
    path = f"{TRAIN}/patient{patient:05d}/study1/{view}.jpg"
    side = "Frontal" if "frontal" in view else "Lateral"
    return {"Path": path, "Sex": "Female", "Age": 63, "Frontal/Lateral": side, "AP/PA": "AP", **labels}


def table(path, header, *lines):
    path.write_text("\n".join([",".join(header), *lines]) + "\n")
    return path


def line(path=f"{TRAIN}/patient00001/study1/view1_frontal.jpg", **labels):
    return ",".join(
        [path, "Male", "40", "Frontal", "AP", *(labels.get(label, "") for label in CHEXPERT.labels)]
    )


def test_tables_are_written_as_published(tmp_path):
    path = tmp_path / "train.csv"
    chexpert.write_labels(path, [row(1, Edema=-1.0, Fracture=1, **{"No Finding": 0}), row(2, Edema=None)])
    assert path.read_text().splitlines() == [
        "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
        "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,"
        "Fracture,Support Devices",
        f"{TRAIN}/patient00001/study1/view1_frontal.jpg,Female,63,Frontal,AP,0.0,,,,,-1.0,,,,,,,1.0,",
        f"{TRAIN}/patient00002/study1/view1_frontal.jpg,Female,63,Frontal,AP,,,,,,,,,,,,,,",
    ]


@given(
    st.lists(
        st.lists(st.sampled_from([1.0, 0.0, -1.0, None]), min_size=14, max_size=14), min_size=1, max_size=5
    )
)
@pytest.mark.parametrize("columns", [chexpert.COLUMNS, chexpert.TEST_COLUMNS])
def test_round_trip(tmp_path_factory, columns, values):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    rows = [row(i, **dict(zip(CHEXPERT.labels, line, strict=True))) for i, line in enumerate(values)]
    rows[0]["Path"], rows[0]["Frontal/Lateral"] = rows[0]["Path"].replace("frontal", "lateral"), "Lateral"
    chexpert.write_labels(path, rows, columns=columns)
    found = chexpert.read_labels(path, root=path.parent)
    np.testing.assert_array_equal(found.labels, np.array(values, float))
    assert found.labels.dtype == np.float32
    assert found.frontal.tolist() == [False] + [True] * (len(rows) - 1)
    assert found.ids[0] == "patient00000_study1_view1_lateral"
    assert [image_id.split("_")[0] for image_id in found.ids] == [f"patient{i:05d}" for i in range(len(rows))]


def test_both_names_of_airspace_opacity_any_column_order_and_a_byte_order_mark(tmp_path):
    header = [
        "Airspace Opacity",
        *(label for label in reversed(CHEXPERT.labels) if label != "Lung Opacity"),
        "Path",
    ]
    cells = [
        "1",
        *["-1" if label == "Edema" else " 0.0 " for label in header[1:-1]],
        "p1/s1/view2_lateral.png",
    ]
    path = tmp_path / "t.csv"
    path.write_text("\ufeff" + ",".join(header) + "\r\n\r\n" + ",".join(cells) + "\r\n")
    found = chexpert.read_labels(path, root=tmp_path)
    assert found.labels[0, CHEXPERT.labels.index("Lung Opacity")] == 1
    assert found.labels[0, CHEXPERT.labels.index("Edema")] == -1
    assert found.labels[0, CHEXPERT.labels.index("Fracture")] == 0
    assert found.ids == ("p1_s1_view2_lateral",)
    assert not found.frontal[0]


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([], "no rows"),
        ([line(Edema="2")], "row 2: Edema is '2'"),
        ([line(Edema="yes")], "row 2: Edema is 'yes'"),
        ([line(Edema="0.5")], "row 2: Edema is '0.5'"),
        ([line(), line()], "row 3: patient00001_study1_view1_frontal is also in row 2"),
        ([line() + ",1"], "row 2: 20 cells under 19 columns"),
        ([line("../secret/patient1/study1/view1_frontal.jpg")], "row 2: path '../secret.* leaves the root"),
        ([line("/etc/patient1/study1/view1_frontal.jpg")], "row 2: path '/etc.* leaves the root"),
        ([line("a/../../patient1/study1/view1_frontal.jpg")], "leaves the root"),
        ([line("..\\\\patient1\\\\study1\\\\view1_frontal.jpg")], "leaves the root"),
        ([line("//host/patient1/study1/view1_frontal.jpg")], "leaves the root"),
        ([line("C:\\\\cxr\\\\patient1\\\\study1\\\\view1_frontal.jpg")], "row 2: path 'C:.* leaves the root"),
        ([line("train/patient1\\\\study1\\\\view1_frontal.jpg")], r"row 2: path 'train.* mixes / and \\"),
        ([line("")], "row 2: path '' is blank"),
        ([line("view1_frontal.jpg")], "does not end in patient/study/view"),
        ([line().replace(",Frontal,", ",Oblique,")], "row 2: view 'Oblique'"),
        ([line().replace("AP", '"AP')], "not a CSV table"),
    ],
)
def test_tables_that_are_wrong(tmp_path, lines, complaint):
    path = table(tmp_path / "t.csv", chexpert.COLUMNS, *lines)
    with pytest.raises(InputError, match=complaint) as error:
        chexpert.read_labels(path, root=tmp_path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_columns_that_are_wrong(tmp_path):
    few = [name for name in chexpert.COLUMNS if name not in ("Edema", "Fracture")]
    with pytest.raises(InputError, match="no column Edema, Fracture"):
        chexpert.read_labels(table(tmp_path / "few.csv", few), root=tmp_path)
    with pytest.raises(InputError, match="'Lung Opacity' is listed twice"):
        chexpert.read_labels(
            table(tmp_path / "two.csv", [*chexpert.COLUMNS, "Airspace Opacity"]), root=tmp_path
        )
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"empty\.csv: is empty; expected a CheXpert table"):
        chexpert.read_labels(tmp_path / "empty.csv", root=tmp_path)
    (tmp_path / "other.csv").write_text("name,value\n")
    with pytest.raises(InputError, match="no column Path"):
        chexpert.read_labels(tmp_path / "other.csv", root=tmp_path)
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        chexpert.read_labels(tmp_path / "none.csv", root=tmp_path)
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        (tmp_path / "other.csv").write_text(f"{separator.join(chexpert.COLUMNS)}\n")
        with pytest.raises(
            InputError, match=rf"other\.csv: its cells are separated by {name}; save it with commas"
        ):
            chexpert.read_labels(tmp_path / "other.csv", root=tmp_path)


def test_excels_tail_of_commas_is_read(tmp_path):
    tail = ",,,"
    path = table(tmp_path / "t.csv", [*chexpert.COLUMNS, "", ""], line(Edema="1") + tail, "," * 21, " ," * 21)
    found = chexpert.read_labels(path, root=tmp_path)
    assert found.ids == ("patient00001_study1_view1_frontal",)
    assert found.labels[0, CHEXPERT.labels.index("Edema")] == 1
    with pytest.raises(InputError, match="row 2: 21 cells under 19 columns"):
        chexpert.read_labels(table(path, [*chexpert.COLUMNS, ""], line() + ",,1"), root=tmp_path)


def test_paths_written_on_windows_are_read(tmp_path):
    windows = line(f"{TRAIN}/patient00002/study1/view1_frontal.jpg".replace("/", "\\"))
    found = chexpert.read_labels(table(tmp_path / "t.csv", chexpert.COLUMNS, line(), windows), root=tmp_path)
    assert found.ids == ("patient00001_study1_view1_frontal", "patient00002_study1_view1_frontal")
    assert found.paths[1] == tmp_path / TRAIN / "patient00002/study1/view1_frontal.jpg"


def test_a_name_that_is_too_long_is_an_image_that_is_missing(tmp_path):
    path = table(tmp_path / "t.csv", chexpert.COLUMNS, line(f"{TRAIN}/p1/s1/{'9' * 5000}_frontal.jpg"))
    (found,) = chexpert.read_labels(path, root=tmp_path).paths
    assert found.parent == tmp_path / TRAIN / "p1/s1"


def test_ids_differ_by_all_but_the_last_suffix(tmp_path):
    paths = [f"{TRAIN}/p1/s1/1.2.840.{n}.jpg" for n in (1, 2)]
    found = chexpert.read_labels(
        table(tmp_path / "t.csv", chexpert.COLUMNS, *map(line, paths)), root=tmp_path
    )
    assert found.ids == ("p1_s1_1.2.840.1", "p1_s1_1.2.840.2")


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=4), st.booleans())
def test_any_text_is_read_or_refused(tmp_path_factory, lines, with_header):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_text("\n".join([",".join(chexpert.TEST_COLUMNS)] * with_header + lines), newline="")
    with suppress(InputError):
        chexpert.read_labels(path, root=path.parent)


def test_take(tmp_path):
    path = tmp_path / "train.csv"
    chexpert.write_labels(path, [row(1), row(1, "view2_lateral"), row(2, Edema=1)])
    studies = chexpert.read_labels(path, root=tmp_path)
    assert studies.take(studies.frontal).ids == (studies.ids[0], studies.ids[2])
    turned = studies.take([2, 0])
    assert turned.ids == (studies.ids[2], studies.ids[0])
    assert turned.paths == (studies.paths[2], studies.paths[0])
    assert turned.labels[0, CHEXPERT.labels.index("Edema")] == 1
    assert len(studies.take([])) == 0


@pytest.mark.parametrize(
    ("paths", "patients"),
    [
        (["patient00001/study1/view1", "patient00001/study2/view1"], ["patient00001", "patient00001"]),
        (["p7/visit1/view1", "p7/visit2/view1", "p8/visit1/view1"], ["p7", "p7", "p8"]),
        (["images/valid/a", "images/valid/b"], ["images_valid_a_frontal", "images_valid_b_frontal"]),
        (["x_study_1/study1/view1", "x_study_2/study1/view1"], ["x_study_1", "x_study_2"]),
        (["x_study_1/visit1/view1", "x_study_2/visit1/view1"], ["x_study_1", "x_study_2"]),
        (
            ["a/images/patient1_study1", "b/images/patient2_study1"],
            ["a_images_patient1", "b_images_patient2"],
        ),
    ],
)
def test_the_patient_of_an_image(tmp_path, paths, patients):
    path = tmp_path / "valid.csv"
    chexpert.write_labels(
        path, [{"Path": f"{path}_frontal.jpg"} for path in paths], columns=chexpert.TEST_COLUMNS
    )
    assert chexpert.read_labels(path, root=tmp_path).patients == tuple(patients)


UNSURE = np.array([[1, 0, -1, NAN] + [-1] * 10], np.float32)


@pytest.mark.parametrize(
    ("policy", "targets", "weights"),
    [
        ("zeros", [1, 0, 0, 0], [1, 1, 1, 1]),
        ("", [1, 0, 0, 0], [1, 1, 1, 1]),
        ("ones", [1, 0, 1, 0], [1, 1, 1, 1]),
        ("ignore", [1, 0, 0, 0], [1, 1, 0, 1]),
        ("zeros; blank=ignore", [1, 0, 0, 0], [1, 1, 1, 0]),
        ("ignore;Cardiomegaly=ones", [1, 0, 1, 0], [1, 1, 1, 1]),
        ({"default": "ignore", "Cardiomegaly": "zeros", "blank": "ones"}, [1, 0, 0, 1], [1, 1, 1, 1]),
        ({"Cardiomegaly": "ignore"}, [1, 0, 0, 0], [1, 1, 0, 1]),
    ],
)
def test_policies(policy, targets, weights):
    found, trusted = chexpert.targets(UNSURE, policy)
    assert found.dtype == trusted.dtype == np.float32
    assert found[0, :4].tolist() == targets
    assert trusted[0, :4].tolist() == weights
    assert not found[trusted == 0].any()


def test_a_label_may_go_by_its_task_name():
    assert chexpert.parse_policy("zeros;Airspace Opacity=ones")["Lung Opacity"] == "ones"


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ("maybe", "default=maybe: uncertain labels must be"),
        ("zeros;Oedema=ones", "unknown label 'Oedema'"),
        ("zeros;Edema=", "Edema=: uncertain labels must be"),
        ("zeros;ones", "twice"),
        ("Lung Opacity=ones;Airspace Opacity=ignore", "Opacity' and '.* Opacity' are one label; keep one"),
    ],
)
def test_policies_that_are_wrong(policy, complaint):
    with pytest.raises(InputError, match=complaint):
        chexpert.targets(UNSURE, policy)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "count"), [("train", 632), ("valid", 36), ("test_labels", 21)])
def test_the_nih_tables_are_read(shared, name, count):
    studies = chexpert.read_labels(shared / f"nih_cxr/{name}.csv", root=shared / "nih_cxr")
    assert len(studies) == count
    assert studies.frontal.all()
    assert all(path.is_file() for path in studies.paths)


@pytest.mark.real_data
def test_the_published_sample_is_read(shared):
    sample = shared / "chexlocalize_sample"
    studies = chexpert.read_labels(sample / "valid.csv", root=sample)
    assert studies.ids == ("patient64541_study1_view1_frontal", "patient64542_study1_view1_frontal")
    assert all(path.is_file() for path in studies.paths)
    assert studies.labels[:, CHEXPERT.labels.index("Lung Opacity")].tolist() == [1, 0]
