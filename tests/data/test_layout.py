import pytest

from chexseg_jax.data import chexpert
from chexseg_jax.data.layout import CHEXLOCALIZE_URL, CHEXPERT_URL, check_layout
from chexseg_jax.errors import InputError

BATCH_1 = "CheXpert-v1.0 batch 1 (validate & csv)"
PATIENT = "patient64541/study1/view1_frontal.jpg"


def lay(root, *files):
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ("listed", "stored"),
    [
        ("CheXpert-v1.0-small/train", "CheXpert-v1.0-small/train"),  # root beside the download
        ("CheXpert-v1.0-small/train", "train"),  # root is the download
        (
            "CheXpert-v1.0/train",
            "CheXpert-v1.0-small/train",
        ),  # the small download under the large one's table
        ("CheXpert-v1.0/valid", "valid"),  # the sample of CheXlocalize
        ("CheXpert-v1.0/valid", "CheXlocalize/CheXpert/val"),  # CheXlocalize calls the folder val
        ("CheXpert-v1.0/valid", "CheXpert/val"),  # root is the CheXlocalize download
        ("test", "CheXlocalize/CheXpert/test"),  # the official test_labels.csv
        ("test", "chexlocalize/CheXpert/test"),
        ("test", "CheXpert-v1.0-small/test"),
    ],
)
def test_images_are_found_wherever_the_download_lies(tmp_path, listed, stored):
    lay(tmp_path, f"{stored}/{PATIENT}")
    chexpert.write_labels(
        tmp_path / "t.csv", [{"Path": f"{listed}/{PATIENT}"}], columns=chexpert.TEST_COLUMNS
    )
    studies = chexpert.read_labels(tmp_path / "t.csv", root=tmp_path)
    assert studies.paths == (tmp_path / stored / PATIENT,)
    assert studies.ids == ("patient64541_study1_view1_frontal",)


def test_images_of_the_masks_size_come_before_the_small_ones(tmp_path):
    lay(tmp_path, f"CheXpert-v1.0-small/valid/{PATIENT}", f"CheXlocalize/CheXpert/val/{PATIENT}")
    chexpert.write_labels(
        tmp_path / "t.csv", [{"Path": f"CheXpert-v1.0/valid/{PATIENT}"}], columns=chexpert.TEST_COLUMNS
    )
    (path,) = chexpert.read_labels(tmp_path / "t.csv", root=tmp_path).paths
    assert path == tmp_path / "CheXlocalize/CheXpert/val" / PATIENT


@pytest.mark.parametrize("below", ["", "chexpertchestxrays-u20210408"])
def test_the_full_size_download_comes_in_batches(tmp_path, below):
    stored = {
        "train/patient00001": "CheXpert-v1.0 batch 2 (train 1)/patient00001",
        "train/patient21514": "CheXpert-v1.0 batch 3 (train 2)/patient21514",
        "train/patient64540": "CheXpert-v1.0 batch 4 (train 3)/patient64540",
        "valid/patient64541": "CheXpert-v1.0 batch 1 (validate & csv)/valid/patient64541",
    }
    root, view = tmp_path / below, "study1/view1_frontal.jpg"
    lay(root, *(f"{folder}/{view}" for folder in stored.values()))
    lay(root, f"{BATCH_1}/train.csv", f"{BATCH_1}/valid.csv")
    lay(tmp_path, "test_labels.csv", "gt_segmentations_val.json", "gt_segmentations_test.json")
    assert check_layout(tmp_path).tables["train"] == root / BATCH_1 / "train.csv"

    rows = [{"Path": f"CheXpert-v1.0/{listed}/{view}"} for listed in stored]
    missing = {"Path": f"CheXpert-v1.0/train/patient00002/{view}"}
    chexpert.write_labels(tmp_path / "t.csv", [missing, *rows], columns=chexpert.TEST_COLUMNS)
    gone, *found = chexpert.read_labels(tmp_path / "t.csv", root=tmp_path).paths
    assert found == [root / folder / view for folder in stored.values()]
    assert gone.parent.parent.name == "patient00002"


def test_a_first_image_that_is_missing_does_not_mislead(tmp_path):
    lay(tmp_path, f"train/{PATIENT}")
    rows = [{"Path": f"CheXpert-v1.0-small/train/{name}"} for name in (PATIENT.replace("1", "2"), PATIENT)]
    chexpert.write_labels(tmp_path / "t.csv", rows, columns=chexpert.TEST_COLUMNS)
    studies = chexpert.read_labels(tmp_path / "t.csv", root=tmp_path)
    assert [path.is_file() for path in studies.paths] == [False, True]


def test_the_two_downloads_side_by_side(tmp_path):
    layout = check_layout(
        lay(
            tmp_path,
            "CheXpert-v1.0-small/train.csv",
            "CheXpert-v1.0-small/valid.csv",
            "CheXlocalize/CheXpert/val_labels.csv",
            "CheXlocalize/CheXpert/test_labels.csv",
            "CheXlocalize/CheXlocalize/gt_segmentations_val.json",
            "CheXlocalize/CheXlocalize/gt_segmentations_test.json",
            "CheXlocalize/CheXlocalize/hb_segmentations_test.json",
        )
    )
    inner = tmp_path / "CheXlocalize"
    assert layout.tables == {
        "train": tmp_path / "CheXpert-v1.0-small/train.csv",
        "valid": inner / "CheXpert/val_labels.csv",
        "test": inner / "CheXpert/test_labels.csv",
    }
    assert layout.segmentations["test"] == inner / "CheXlocalize/gt_segmentations_test.json"
    assert layout.second_reader == inner / "CheXlocalize/hb_segmentations_test.json"


def test_everything_missing_is_listed_at_once_with_where_to_get_it(tmp_path):
    lay(tmp_path, "valid.csv", "gt_segmentations_val.json")
    with pytest.raises(InputError) as error:
        check_layout(tmp_path)
    message = str(error.value)
    for part in (
        "train.csv",
        "test_labels.csv",
        "gt_segmentations_test.json",
        CHEXPERT_URL,
        CHEXLOCALIZE_URL,
    ):
        assert part in message
    assert "valid.csv" not in message
    assert "gt_segmentations_val.json" not in message
    assert "\n" not in message


def test_a_root_that_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        check_layout(tmp_path / "nowhere")


@pytest.mark.real_data
def test_the_nih_layout(shared):
    layout = check_layout(shared / "nih_cxr")
    assert layout.tables["train"] == shared / "nih_cxr/train.csv"
    assert layout.second_reader is None
