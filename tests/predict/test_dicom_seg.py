import shutil
import subprocess

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import PLANTED, content, dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, JPEG2000Lossless

from chexseg_jax.data.taxonomy import CHEXPERT, Taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.predict.dicom_seg import write_dicom_seg

SHAPE = (61, 83)


@pytest.fixture
def masks():
    """Overlapping, odd in shape, and empty for four tasks."""
    masks = np.random.default_rng(0).random((*SHAPE, 10)) < 0.3
    masks[..., [1, 4, 5, 9]] = False
    return masks


@pytest.fixture
def source(tmp_path):
    def write(**elements):
        path = tmp_path / "source.dcm"
        ds = dataset(np.zeros(SHAPE, np.uint16), **elements)
        path.write_bytes(content(ds))
        return path

    return write


def segments(path):
    """Masks [H, W, K] by highdicom's reader, and what it read them from."""
    found = highdicom.seg.segread(path)
    numbers = found.segment_numbers
    pixels = found.get_pixels_by_source_instance(
        [PLANTED["SOPInstanceUID"]], segment_numbers=numbers, assert_missing_frames_are_empty=True
    )
    return pixels[0].astype(bool), found


def test_highdicom_reads_back_the_masks_of_the_source(source, masks, tmp_path):
    write_dicom_seg(tmp_path / "a.seg.dcm", source(), masks, CHEXPERT, model="m-1")
    found, seg = segments(tmp_path / "a.seg.dcm")
    np.testing.assert_array_equal(found, masks)
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == list(CHEXPERT.tasks)
    assert seg.NumberOfFrames == 6
    assert seg.SegmentationType == "BINARY"
    (reference,) = seg.ReferencedSeriesSequence
    assert reference.SeriesInstanceUID == PLANTED["SeriesInstanceUID"]
    assert reference.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == PLANTED["SOPInstanceUID"]
    assert {name: str(seg.get(name)) for name in ("PatientName", "PatientID", "StudyInstanceUID")} == {
        name: PLANTED[name] for name in ("PatientName", "PatientID", "StudyInstanceUID")
    }
    assert not list(tmp_path.glob("*.part"))


def test_findings_have_the_codes_of_snomed(source, masks, tmp_path):
    write_dicom_seg(tmp_path / "a.seg.dcm", source(), masks, CHEXPERT, model="m-1")
    seg = highdicom.seg.segread(tmp_path / "a.seg.dcm")
    described = {seg.get_segment_description(n).segment_label: n for n in seg.segment_numbers}

    def code(task):
        concept = seg.get_segment_description(described[task]).segmented_property_type
        return concept.value, concept.scheme_designator

    codes = pydicom.sr.codedict.codes
    assert code("Pneumothorax") == (codes.SCT.Pneumothorax.value, "SCT")
    assert code("Pleural Effusion") == (codes.SCT.PleuralEffusion.value, "SCT")
    assert code("Edema") == (codes.SCT.PulmonaryEdema.value, "SCT")
    assert code("Lung Lesion") == (codes.SCT.Lesion.value, "SCT")
    assert code("Airspace Opacity") == (codes.DCM.Opacity.value, "DCM")
    assert code("Enlarged Cardiomediastinum")[1] == "99CHEXSEG"


def test_all_empty_masks_give_a_file_of_empty_frames(source, tmp_path):
    empty = np.zeros((*SHAPE, 10), bool)
    write_dicom_seg(tmp_path / "a.seg.dcm", source(), empty, CHEXPERT, model="m-1")
    found, seg = segments(tmp_path / "a.seg.dcm")
    np.testing.assert_array_equal(found, empty)
    assert seg.NumberOfFrames == 10


def test_equal_inputs_give_equal_bytes_and_others_other_identifiers(source, masks, tmp_path):
    def write(name, masks=masks, model="m-1"):
        write_dicom_seg(tmp_path / name, path, masks, CHEXPERT, model=model)
        return pydicom.dcmread(tmp_path / name).SOPInstanceUID

    path = source()
    first = write("a.dcm")
    assert write("b.dcm") == first
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    assert len({first, write("c.dcm", masks=~masks), write("d.dcm", model="m-2")}) == 3


TASKS = ("Épanchement \\ pleural", "肺結節", "Pneumothorax", "x" * 90)


@pytest.mark.parametrize(
    "elements",
    [
        {"PixelSpacing": [0, 0]},
        {"PixelSpacing": [0.143, 0.143], "PatientOrientation": ["L", "F"]},
        {"ImagerPixelSpacing": [0.2, 0.2]},
        {"FrameOfReferenceUID": "1.2.3.4"},
        {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen"},
        {"SpecificCharacterSet": "ISO 2022 IR 6\\ISO 2022 IR 87", "PatientName": "Yamada^Tarou=山田^太郎"},
        {"PatientSex": "U", "PatientBirthDate": None, "StudyDate": None, "StudyTime": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("tasks", [CHEXPERT.tasks, TASKS])
def test_sources_and_task_sets_of_many_kinds(source, masks, tmp_path, elements, tasks):
    masks = masks[..., : len(tasks)]
    taxonomy = Taxonomy(labels=tasks, tasks=tasks)
    write_dicom_seg(tmp_path / "a.seg.dcm", source(**elements), masks, taxonomy, model="C:\\m\n" + "é" * 80)
    found, seg = segments(tmp_path / "a.seg.dcm")
    np.testing.assert_array_equal(found, masks)
    assert str(seg.PatientName) == elements.get("PatientName", PLANTED["PatientName"])
    assert_conforms(tmp_path / "a.seg.dcm")


def assert_conforms(path):
    """By dciodvfy of dicom3tools, where it is installed."""
    if shutil.which("dciodvfy"):
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Segmentation" in said.stdout + said.stderr
        assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed (Debian: dicom3tools)")
def test_dciodvfy_finds_no_error_and_would_find_one(source, masks, tmp_path):
    write_dicom_seg(tmp_path / "a.seg.dcm", source(), masks, CHEXPERT, model="m-1")
    assert_conforms(tmp_path / "a.seg.dcm")
    seg = pydicom.dcmread(tmp_path / "a.seg.dcm")
    del seg.SegmentSequence[0].SegmentNumber
    seg.save_as(tmp_path / "b.seg.dcm")
    with pytest.raises(AssertionError):
        assert_conforms(tmp_path / "b.seg.dcm")


def test_a_compressed_source_without_a_patient_is_referred_to(masks, tmp_path):
    ds = dataset(np.zeros(SHAPE, np.uint16))
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        delattr(ds, name)
    (tmp_path / "source.dcm").write_bytes(content(ds))
    write_dicom_seg(tmp_path / "a.seg.dcm", tmp_path / "source.dcm", masks, CHEXPERT, model="m-1")
    np.testing.assert_array_equal(segments(tmp_path / "a.seg.dcm")[0], masks)
    assert_conforms(tmp_path / "a.seg.dcm")


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"StudyInstanceUID": None}, "without StudyInstanceUID"),
        ({"Rows": 60}, "has 60 x 83 pixels, its masks 61 x 83"),
        ({"SOPClassUID": "1.2.3.4.7773"}, r"no DICOM segmentation can refer to its header \(KeyError\)"),
        ({"StudyDate": "Zyxwvut^"}, r"no DICOM segmentation can refer to its header"),
    ],
)
def test_a_source_that_cannot_be_referred_to_is_named(source, masks, tmp_path, elements, reason):
    with pydicom.config.disable_value_validation():
        path = source(**elements)
    with pytest.raises(InputError, match=reason) as error:
        write_dicom_seg(tmp_path / "a.seg.dcm", path, masks, CHEXPERT, model="m-1")
    assert str(error.value).startswith(f"{path}: ")
    assert not [value for value in (*PLANTED.values(), "Zyxwvut", "7773") if value in str(error.value)]
    assert not (tmp_path / "a.seg.dcm").exists()
