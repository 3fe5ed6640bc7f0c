"""Importers of image labels, on tables as their data sets have them."""

import csv
import json

import pytest

from chexseg_jax.data import chexpert
from chexseg_jax.data.layout import check_layout
from chexseg_jax.data.taxonomy import CHEXPERT, read_taxonomy
from chexseg_jax.errors import InputError


def rows_of(root, split):
    """{image's name: cells} of a root's table."""
    name = {"train": "train.csv", "valid": "valid.csv", "test": "test_labels.csv"}[split]
    with (root / name).open() as file:
        return {row["Path"].rsplit("/", 1)[1].partition(".")[0]: row for row in csv.DictReader(file)}


def labels_of(row):
    return {name: row[name] for name in row if name not in chexpert.COLUMNS[:5] and row[name]}


def opened(root):
    layout, taxonomy = check_layout(root, labels_alone=True), read_taxonomy(root)
    studies = {s: chexpert.read_labels(t, root=root, taxonomy=taxonomy) for s, t in layout.tables.items()}
    assert all(path.is_file() for read in studies.values() for path in read.paths)
    return studies


def test_a_folder_of_images_and_a_csv(images, tmp_path, bring, capsys):
    folder = images("a", "b", "c", "d", "e")
    (tmp_path / "t.csv").write_text(
        "file,who,projection,Nodule,Fracture,note\na,1,PA,1,0,x\nb.png,1,AP,0,,y\nc,2,Lateral,-1,1,\nd,3,PA,0,0,\nz,4,PA,0,0,\n"
    )
    named = ("--columns", "image=file,patient=who,view=projection")
    arguments = ("csv", tmp_path / "t.csv", "--images", folder, *named, "--valid", "0.34", "--test", "0.33")
    with pytest.raises(
        InputError, match=r"line 2: note is 'x'; a label is 1, 0, -1 or blank.*--rename 'note='"
    ):
        bring(*arguments)
    root = bring(*arguments, "--rename", "note=")
    told = capsys.readouterr().err
    assert "left out: 1 images that are not below --images: z" in told
    assert "left out: 1 images below --images that no source names: e.png" in told
    assert read_taxonomy(root).tasks == ("Nodule", "Fracture")
    studies = opened(root)
    split_of = {path.stem: split for split, read in studies.items() for path in read.paths}
    assert split_of["a"] == split_of["b"]  # one patient
    assert sorted(set(split_of.values())) == ["test", "train", "valid"]
    every = {name: row for split in studies for name, row in rows_of(root, split).items()}
    assert labels_of(every["a"]) == {"Nodule": "1.0", "Fracture": "0.0"}
    assert labels_of(every["b"]) == {"Nodule": "0.0"}
    assert labels_of(every["c"]) == {"Nodule": "-1.0", "Fracture": "1.0"}
    assert every["c"]["Frontal/Lateral"] == "Lateral"
    again = bring(*arguments, "--rename", "note=", out="again")
    assert (again / "train.csv").read_text() == (root / "train.csv").read_text()


def test_a_stray_quotation_mark_swallows_no_rows(images, tmp_path, bring):
    folder = images("a", "b", "c", "d")
    (tmp_path / "t.csv").write_text('Path,who,Nodule,note\na,1,1,\nb,2,0,"6 inch\nc,3,1,\nd,4,0,\n')
    arguments = (
        "csv",
        tmp_path / "t.csv",
        "--images",
        folder,
        "--columns",
        "patient=who",
        "--view",
        "frontal",
    )
    with pytest.raises(
        InputError, match=r"line 5: not a CSV table \(unexpected end of data\); look for a stray"
    ):
        bring(*arguments, "--rename", "note=", "--valid", "0.5")


NIH = """Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly|Effusion,0,1,058Y,M,PA,2682,2749,0.143,0.143,
00000001_001.png,No Finding,1,1,58,M,AP,2682,2749,0.143,0.143,
00000002_000.png,Effusion,0,2,81,F,PA,2500,2048,0.171,0.171,
00000003_000.png,,0,3,40,F,PA,2500,2048,0.171,0.171,
00000009_000.png,Hernia,0,9,40,F,PA,2500,2048,0.171,0.171,
"""


def test_nih(images, tmp_path, bring, capsys):
    names = (
        "1/images/00000001_000",
        "1/images/00000001_001",
        "2/images/00000002_000",
        "2/images/00000003_000",
    )
    folder = images(*(f"images_00{name}" for name in names))
    (tmp_path / "Data_Entry_2017.csv").write_text(NIH)
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n00000009_000.png\n")
    lists = ("--test-list", tmp_path / "test_list.txt", "--valid", "0.5")
    names = ("--rename", "Effusion=Pleural Effusion")
    root = bring("nih", tmp_path / "Data_Entry_2017.csv", "--images", folder, *lists, *names)
    assert "left out: 1 images that are not below --images: 00000009_000.png" in capsys.readouterr().err
    studies = opened(root)
    assert [len(studies[split]) for split in ("train", "valid", "test")] in ([1, 2, 1], [2, 1, 1])
    row = {**rows_of(root, "train"), **rows_of(root, "valid")}["00000001_000"]
    assert labels_of(row) == {
        "Cardiomegaly": "1.0", "Pleural Effusion": "1.0", "Hernia": "0.0", "No Finding": "0.0",
    }  # fmt: skip
    assert [row[name] for name in ("Sex", "Age", "Frontal/Lateral", "AP/PA")] == [
        "Male",
        "58",
        "Frontal",
        "PA",
    ]
    assert row["Path"].endswith("/patient1/study0/00000001_000.png")
    assert studies["test"].patients == ("patient2",)
    every = {name: row for split in studies for name, row in rows_of(root, split).items()}
    assert labels_of(every["00000003_000"]) == {}  # nothing is listed, not even No Finding
    (tmp_path / "more.csv").write_text("Path,Nodule\n00000001_000,1\n00000001_001,0\n00000002_000,0\n")
    source = tmp_path / "Data_Entry_2017.csv"
    both = bring(
        "nih", source, "--images", folder, *lists, *names, "--labels", tmp_path / "more.csv", out="both"
    )
    other = {**rows_of(both, "train"), **rows_of(both, "valid")}["00000001_000"]
    assert other == row | {"Path": other["Path"], "Nodule": "1.0"}  # its patient, view, sex and age too
    assert other["Path"].endswith("/patient1/study0/00000001_000.png")
    assert set(read_taxonomy(root).tasks) == {"Cardiomegaly", "Pleural Effusion", "Hernia"}


def test_mimic(images, tmp_path, bring, capsys):
    studies = {"aa": ("p10/p100/s50", "PA", "train"), "bb": ("p10/p100/s50", "LATERAL", "train")}
    studies |= {"cc": ("p11/p111/s60", "AP", "validate"), "dd": ("p12/p120/s70", "AP", "test")}
    studies |= {"ee": ("p13/p130/s80", "PA", "train"), "ff": ("p13/p130/s81", "", "train")}
    folder = images(*(f"files/{place}/{dicom}.jpg" for dicom, (place, *_) in studies.items()))
    metadata, split = ["dicom_id,subject_id,study_id,ViewPosition"], ["dicom_id,study_id,subject_id,split"]
    for dicom, (place, view, part) in studies.items():
        _, subject, study = place.split("/")
        metadata.append(f"{dicom},{subject[1:]},{study[1:]},{view}")
        split.append(f"{dicom},{study[1:]},{subject[1:]},{part}")
    labels = ["subject_id,study_id," + ",".join(sorted(CHEXPERT.labels))]
    for subject, study in ((100, 50), (111, 60), (120, 70), (130, 81)):
        labels.append(f"{subject},{study}," + ",".join(["1.0", "-1.0", "0.0"] + [""] * 11))
    for name, lines in (("chexpert", labels), ("metadata", metadata), ("split", split)):
        (tmp_path / f"mimic-cxr-2.0.0-{name}.csv").write_text("\n".join(lines))
    root = bring("mimic", tmp_path / "mimic-cxr-2.0.0-chexpert.csv", "--images", folder)
    told = capsys.readouterr().err
    assert "left out: 1 images of studies without labels: ee" in told
    assert "left out: 1 images of unknown view; --view gives it: ff" in told
    read = opened(root)
    assert {split: one.ids for split, one in read.items()} == {
        "train": ("patient100_study50_aa", "patient100_study50_bb"),
        "valid": ("patient111_study60_cc",),
        "test": ("patient120_study70_dd",),
    }
    assert read["train"].frontal.tolist() == [True, False]
    assert not (root / "tasks.toml").exists()
    assert labels_of(rows_of(root, "valid")["cc"]) == {
        "Atelectasis": "1.0", "Cardiomegaly": "-1.0", "Consolidation": "0.0",
    }  # fmt: skip


def chexbert(reports, values):
    order = [*CHEXPERT.labels[1:], CHEXPERT.labels[0]]
    lines = [
        ["Report Impression", *order],
        *([text, *value] for text, value in zip(reports, values, strict=True)),
    ]
    return "\n".join(",".join(f'"{cell}"' for cell in line) for line in lines)


def test_chexbert(images, tmp_path, bring):
    folder = images("patient1/study1/view1_frontal.jpg", "patient2/study1/view1_frontal.jpg")
    reports = ["No effusion,\nclear.", "Edema."]
    blank = [""] * 11
    (tmp_path / "labeled_reports.csv").write_text(
        chexbert(reports, [["1.0", "", "0.0", *blank], ["-1.0", "", "", *blank]])
    )
    with (tmp_path / "reports.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["img", "Report Impression"])
        table.writerows(
            zip(["patient1/study1/view1_frontal", "patient2/study1/view1_frontal"], reports, strict=True)
        )
    labelled = tmp_path / "labeled_reports.csv"
    arguments = ("chexbert", labelled, "--images", folder, "--valid", "0.5", "--view", "frontal")
    with pytest.raises(InputError, match="no column Path; give with --reports the table that CheXbert read"):
        bring(*arguments)
    arguments += ("--reports", tmp_path / "reports.csv", "--columns", "image=img")
    with pytest.raises(InputError, match="no column patinet; give with --reports"):
        bring(*arguments[:-1], "image=img,patient=patinet")
    root = bring(*arguments)
    read = opened(root)
    assert sorted(read) == ["train", "valid"]
    ids = {name: split for split, one in read.items() for name in one.ids}
    one = rows_of(root, ids["patient1_study1_view1_frontal"])["view1_frontal"]
    assert labels_of(one) == {"Enlarged Cardiomediastinum": "1.0", "Lung Opacity": "0.0"}
    labelled.write_text(chexbert(reports[::-1], [["", "", "", *blank]] * 2))
    with pytest.raises(InputError, match="another report than in"):
        bring(*arguments, out="other")


def test_chexpert_plus(images, tmp_path, bring):
    names = [
        "train/patient1/study1/view1_frontal",
        "train/patient1/study1/view2_lateral",
        "valid/patient2/study1/view1_frontal",
    ]
    folder = images(*(f"PNG/{name}.png" for name in names))
    table = ["path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,age,sex,split,report"]
    lines = []
    for number, name in enumerate(names):
        split, patient, _, view = name.split("/")
        lateral = "Lateral" if "lateral" in view else "Frontal"
        table.append(
            f'{name}.jpg,{name}.dcm,{lateral},AP,{patient},{60 + number},Female,{split},"NARRATIVE:\nA, b"'
        )
        labels = dict.fromkeys(CHEXPERT.labels) | {"Edema": 1.0, "Fracture": 0.0, "Pneumonia": -1.0}
        lines.append(json.dumps({"path_to_image": f"{name}.jpg", **labels}))
    (tmp_path / "df.csv").write_text("\n".join(table))
    (tmp_path / "impression_fixed.json").write_text("\n".join(lines) + "\n")
    arguments = ("plus", tmp_path / "impression_fixed.json", "--images", folder)
    with pytest.raises(InputError, match="with --reports"):
        bring(*arguments)
    root = bring(*arguments, "--reports", tmp_path / "df.csv")
    assert {split: read.ids for split, read in opened(root).items()} == {
        "train": ("patient1_study1_view1_frontal", "patient1_study1_view2_lateral"),
        "valid": ("patient2_study1_view1_frontal",),
    }
    row = rows_of(root, "valid")["view1_frontal"]
    assert labels_of(row) == {"Edema": "1.0", "Fracture": "0.0", "Pneumonia": "-1.0"}
    assert [row["Sex"], row["Age"], row["AP/PA"]] == ["Female", "62", "AP"]


def test_patients_are_in_one_split(images, tmp_path, bring, capsys):
    folder = images("p1_a", "p1_b", "p2_a", "p3_a", "p4_a")
    (tmp_path / "t.csv").write_text(
        "Path,Nodule\n" + "".join(f"{p},0\n" for p in ("p1_a", "p1_b", "p2_a", "p3_a", "p4_a"))
    )
    (tmp_path / "test.txt").write_text("p1_a.png\n")
    (tmp_path / "valid.txt").write_text("p2_a.png\n")
    lists = ("--test-list", tmp_path / "test.txt", "--valid-list", tmp_path / "valid.txt")
    asked = ("--view", "frontal", "--patient", "(p.)_")
    root = bring("csv", tmp_path / "t.csv", "--images", folder, *asked, *lists)
    assert "left out: 1 train images of patients in test: p1_b" in capsys.readouterr().err
    assert {split: len(read) for split, read in opened(root).items()} == {"train": 2, "valid": 1, "test": 1}
    assert "p1_b" in (root / "import.txt").read_text()
    assert (root / "import.txt").read_text().startswith("chexseg import csv ")
    (tmp_path / "valid.txt").write_text("p1_a.png\n")
    with pytest.raises(InputError, match="is in both lists"):
        bring("csv", tmp_path / "t.csv", "--images", folder, *asked, *lists, out="other")


def test_the_row_numbers_of_pandas_are_no_label(images, tmp_path, bring):
    folder = images("a", "b")
    (tmp_path / "t.csv").write_text(",Path,Nodule\n7,a,1\n8,b,0\n")
    asked = ("--view", "frontal", "--patient", "image", "--valid", "0.5")
    root = bring("csv", tmp_path / "t.csv", "--images", folder, *asked)
    assert read_taxonomy(root).labels == ("Nodule",)


def test_patients_have_ids_of_their_own_for_any_name(images, tmp_path, bring):
    names = ["Scan 1", "Scan(1)", "Scan-1", "a_study1"]
    folder = images(*names)
    (tmp_path / "t.csv").write_text("Path,Nodule\n" + "".join(f"{name}.png,1\n" for name in names))
    asked = ("--view", "frontal", "--patient", "image", "--valid", "0.5")
    root = bring("csv", tmp_path / "t.csv", "--images", folder, *asked)
    patients = {patient for read in opened(root).values() for patient in read.patients}
    assert patients == {"patientScan-20-1", "patientScan-28-1-29-", "patientScan-1", "patienta-5f-study1"}


def test_masks_join_a_table_of_labels(images, tmp_path, bring, masks_of):
    folder = images("a", "b", "c", "d")
    (tmp_path / "t.csv").write_text("Path,Nodule,Edema\na,1,0\nb,0,1\nc,0,-1\n")
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}
    entries = [
        {"id": i, "file_name": f"{name}.png", "height": 12, "width": 10} for i, name in enumerate("ab", 1)
    ]
    content = {"images": entries, "annotations": [square], "categories": [{"id": 1, "name": "Mass"}]}
    (tmp_path / "c.json").write_text(json.dumps(content))
    asked = (
        "--view",
        "frontal",
        "--patient",
        "image",
        "--missing",
        "empty",
        "--valid",
        "0.5",
        "--test",
        "0.5",
    )
    root = bring("coco", tmp_path / "c.json", "--labels", tmp_path / "t.csv", "--images", folder, *asked)
    taxonomy = read_taxonomy(root)
    assert (taxonomy.labels, taxonomy.tasks) == (("Nodule", "Edema", "Mass"), ("Mass",))
    every = {**rows_of(root, "valid"), **rows_of(root, "test")}
    assert labels_of(every["a"]) == {"Nodule": "1.0", "Edema": "0.0", "Mass": "1.0"}  # Mass by its mask
    assert labels_of(every["b"]) == {"Nodule": "0.0", "Edema": "1.0", "Mass": "0.0"}
    assert labels_of(rows_of(root, "train")["c"]) == {"Nodule": "0.0", "Edema": "-1.0"}
    assert "d" not in rows_of(root, "train")  # no source names it
