"""Every command of docs/your-data.md runs, in its order, on files as it names them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import configs.classifier
import configs.moco
import configs.semi
from chexseg_jax.data.layout import check_layout
from chexseg_jax.data.taxonomy import CHEXPERT
from chexseg_jax.dry_run import describe
from chexseg_jax.exchange.__main__ import main
from chexseg_jax.exchange.importers import IMPORTERS
from chexseg_jax.stages import imagenet

PAGE = (Path(__file__).parents[2] / "docs" / "your-data.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
NAMES = [f"{number:03}.png" for number in range(1, 7)]
OTHERS = [f"{number:03}.png" for number in range(7, 13)]


def save(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((12, 10), np.uint8)).save(path)


def coco(path, names):
    entries = [{"id": i, "file_name": name, "height": 12, "width": 10} for i, name in enumerate(names)]
    drawn = [{"id": 1, "image_id": 0, "category_id": 1, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]}]
    content = {"images": entries, "annotations": drawn, "categories": [{"id": 1, "name": "Nodule"}]}
    Path(path).write_text(json.dumps(content))


def lines(path, *rows):
    Path(path).write_text("\n".join(rows) + "\n")


def write_masks():
    for path, names in (("valid.json", NAMES[:2]), ("test.json", NAMES[2:4])):
        coco(path, names)
    save("masks/Nodule/001.png", "masks/002_Nodule.png")
    Path("labelme").mkdir()
    for name in NAMES[:2]:
        content = {"imagePath": name, "imageHeight": 12, "imageWidth": 10}
        shape = {"label": "Nodule", "shape_type": "rectangle", "points": [[1, 1], [3, 4]]}
        Path("labelme", name).with_suffix(".json").write_text(json.dumps(content | {"shapes": [shape]}))
    lines("train-rle.csv", "ImageId,EncodedPixels", *(f"{name[:3]},-1" for name in NAMES))
    boxes = [f"{name[:3]},R{reader},Nodule,1,1,4,4" for name in NAMES for reader in (8, 9)]
    lines("annotations_train.csv", "image_id,rad_id,class_name,x_min,y_min,x_max,y_max", *boxes)
    for path, names in (("ChestX_Det_train.json", NAMES[:2]), ("ChestX_Det_test.json", NAMES[2:4])):
        found = {"syms": ["Effusion"], "boxes": [[1, 1, 4, 3]], "polygons": [[[1, 1], [4, 1], [4, 3]]]}
        Path(path).write_text(json.dumps([{"file_name": name, **found} for name in names]))


def write_labels():
    rows = [f"{name},{number},PA,{number % 2},0" for number, name in enumerate([*NAMES, *OTHERS])]
    lines("labels.csv", "file,patient,projection,Nodule,Fracture", *rows)
    nih = [f"0000000{n}_000.png,{'Effusion' if n % 2 else 'No Finding'},0,{n},50,M,PA" for n in range(1, 8)]
    lines(
        "Data_Entry_2017.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position",
        *nih,
    )
    save(*(f"nih-images/{row.partition(',')[0]}" for row in nih))
    lines("test_list.txt", "00000001_000.png")
    stem = "mimic-cxr-2.0.0"
    save(*(f"mimic-images/files/p1/p1{n}/s{n}/d{n}.jpg" for n in range(3)))
    blank = "," * 13
    lines(
        f"{stem}-chexpert.csv",
        f"subject_id,study_id,{','.join(CHEXPERT.labels)}",
        *(f"1{n},{n},1.0{blank}" for n in range(3)),
    )
    lines(
        f"{stem}-metadata.csv",
        "dicom_id,subject_id,study_id,ViewPosition",
        *(f"d{n},1{n},{n},PA" for n in range(3)),
    )
    splits = ("train", "validate", "test")
    lines(
        f"{stem}-split.csv",
        "dicom_id,study_id,subject_id,split",
        *(f"d{n},{n},1{n},{s}" for n, s in enumerate(splits)),
    )
    lines(
        "labeled_reports.csv",
        f"Report Impression,{','.join(CHEXPERT.labels)}",
        *(f"Report {n},1.0{blank}" for n in NAMES),
    )
    lines("reports.csv", "file,patient,Report Impression", *(f"{n},{n[:3]},Report {n}" for n in NAMES))
    plus = [f"{split}/patient{n}/study1/view1_frontal" for n, split in enumerate(("train", "train", "valid"))]
    save(*(f"PNG/{name}.png" for name in plus))
    table = [f"{name}.jpg,Frontal,AP,{name.split('/')[1]},50,Male,{name.split('/')[0]}" for name in plus]
    lines(
        "df_chexpert_plus_240401.csv",
        "path_to_image,frontal_lateral,ap_pa,deid_patient_id,age,sex,split",
        *table,
    )
    entry = dict.fromkeys(CHEXPERT.labels)
    lines("impression_fixed.json", *(json.dumps({"path_to_image": f"{name}.jpg", **entry}) for name in plus))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(*(f"images/{name}" for name in [*NAMES, *OTHERS]))
    write_masks()
    write_labels()
    coco("instances.json", NAMES[:4])
    Path("prediction").mkdir()
    (tmp_path / "prediction/tasks.toml").write_text('labels = ["Nodule"]\ntasks = ["Nodule"]\n')
    for model in ("resnet18", "densenet121"):  # a plan needs their names and digests
        Path(f"{model}.pth").write_bytes(model.encode())
    monkeypatch.setattr(imagenet, "torchvision_cache", lambda: tmp_path)
    mask = {"Nodule": {"size": [12, 10], "counts": [10, 4, 106]}}
    (tmp_path / "prediction/segmentations.json").write_text(json.dumps({"001": mask}))
    return tmp_path


def test_all_commands_run(place):
    for program, *words in COMMANDS:
        if program == "chexseg":
            main(words)
            if words[0] == "import":
                root = words[words.index("--out") + 1]
                check_layout(root, labels_alone=True)
        else:
            assert words[0] == "launch.py"
            file, _, argument = words[1].removeprefix("--config=configs/").partition(".py:")
            config = getattr(configs, file).get_config(argument)
            if Path(config.root).exists():  # CheXpert itself cannot be shipped
                assert "\nTo do: " in describe(config, place / "work", getattr(configs, file).__file__)


def test_the_page_shows_every_format():
    assert {words[2] for words in COMMANDS if words[1] == "import"} == {*IMPORTERS}
