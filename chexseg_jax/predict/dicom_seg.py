"""Masks as DICOM segmentations (DICOM-SEG, PS3.3 A.51), by highdicom (the extra `dicom`)."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from chexseg_jax import __version__
from chexseg_jax.data.dicom import EXTRA, library
from chexseg_jax.data.taxonomy import Taxonomy
from chexseg_jax.errors import InputError
from chexseg_jax.files import aside_of

_SCHEME = "99CHEXSEG"
_FINDING = ("49755003", "SCT", "Morphologically Abnormal Structure")
_OBJECT = ("260787004", "SCT", "Physical object")
_LUNG, _MEDIASTINUM = ("39607008", "SCT", "Lung"), ("72410000", "SCT", "Mediastinum")
#: Task -> (category, code, where it is, if the code leaves it open); a task without a code gets one of `_SCHEME`.
_CODES = {
    "Airspace Opacity": (_FINDING, ("112001", "DCM", "Opacity"), _LUNG),
    "Atelectasis": (_FINDING, ("46621007", "SCT", "Atelectasis"), None),
    "Cardiomegaly": (_FINDING, ("8186001", "SCT", "Cardiomegaly"), None),
    "Consolidation": (_FINDING, ("95436008", "SCT", "Lung consolidation"), None),
    "Edema": (_FINDING, ("19242006", "SCT", "Pulmonary edema"), None),
    "Enlarged Cardiomediastinum": (_FINDING, None, _MEDIASTINUM),
    "Lung Lesion": (_FINDING, ("52988006", "SCT", "Lesion"), _LUNG),
    "Pleural Effusion": (_FINDING, ("60046008", "SCT", "Pleural effusion"), None),
    "Pneumothorax": (_FINDING, ("36118008", "SCT", "Pneumothorax"), None),
    "Support Devices": (_OBJECT, ("49062001", "SCT", "Device"), None),
}
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
#: Elements that a file may leave empty, but not out (type 2 of the patient and study modules).
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


def write_dicom_seg(
    file: Path, source: Path, masks: Bool[np.ndarray, "H W K"], taxonomy: Taxonomy, *, model: str
) -> None:
    """Write the masks of a DICOM radiograph as a binary DICOM segmentation that refers to it.

    Every task is a segment. Those without a pixel have no frame, unless no task has any: a file needs a frame, and then
    all of them have empty ones. The patient and study of the source are carried over, as the standard wants it, names
    too. Equal inputs give equal bytes: identifiers are derived from the source's, the model and the masks, and the
    dates are those of the source.

    Args:
      file: to write; it is complete or absent.
      source: the radiograph's file.
      masks: of the stored pixels.
      taxonomy: of the masks' last axis.
      model: a name of the model.

    Raises:
      InputError: naming a source that is damaged, that lacks an identifier, or whose size is not the masks'.
    """
    try:
        segmentation = _segmentation(_read(source), masks, taxonomy, _name(model))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    # pydicom and highdicom quote the header's values.
    except Exception as error:
        raise InputError(
            f"{source}: no DICOM segmentation can refer to its header ({type(error).__name__}); export it again, or "
            "save other formats"
        ) from None
    aside = aside_of(file)
    try:
        segmentation.save_as(aside)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def _read(source: Path) -> Any:
    """The header of a radiograph, complete as far as the segmentation takes it over."""
    dataset = library().dcmread(source, force=True, stop_before_pixels=True)
    if lacking := [name for name in _REQUIRED if not dataset.get(name)]:
        raise InputError(
            f"without {', '.join(lacking)}, which a DICOM segmentation refers to; save other formats"
        )
    for name in _EMPTY:
        if name not in dataset:
            setattr(dataset, name, None)
    if dataset.PatientSex not in ("M", "F", "O"):
        dataset.PatientSex = None
    # Highdicom would copy it, 0 too, and cannot read it back without a slice thickness, which a radiograph has not.
    dataset.pop("PixelSpacing", None)
    return dataset


def _segmentation(dataset: Any, masks: Bool[np.ndarray, "H W K"], taxonomy: Taxonomy, model: str) -> Any:
    if masks.shape[:2] != (dataset.Rows, dataset.Columns):
        raise InputError(
            f"has {dataset.Rows} x {dataset.Columns} pixels, its masks {' x '.join(map(str, masks.shape[:2]))}"
        )
    try:
        import highdicom
    except ImportError:
        raise InputError(f"DICOM segmentations need an extra: {EXTRA}") from None
    from pydicom.uid import generate_uid

    logging.getLogger("highdicom").setLevel(logging.CRITICAL)
    digest = hashlib.sha256(np.packbits(masks).tobytes()).hexdigest()

    def uid(purpose: str) -> str:
        return generate_uid(entropy_srcs=[dataset.SOPInstanceUID, model, *taxonomy.tasks, digest, purpose])

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="chexseg-jax",
        version=__version__,
        family=_code("123110", "DCM", "Artificial Intelligence"),
        parameters={"model": model},
    )
    segmentation = highdicom.seg.Segmentation(
        source_images=[dataset],
        pixel_array=masks[None],
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(k + 1, task, taxonomy.colours[k], algorithm, uid(f"track {task}"))
            for k, task in enumerate(taxonomy.tasks)
        ],
        series_instance_uid=uid("series"),
        series_number=1,
        sop_instance_uid=uid("instance"),
        instance_number=1,
        manufacturer="chexseg-jax",
        manufacturer_model_name=model,
        software_versions=__version__,
        device_serial_number=digest[:64],
        content_label="CHEXSEG",
        content_description="Automatic segmentation of a chest radiograph",
        series_description=_name(f"chexseg-jax {model}"),
    )
    _fix(segmentation, dataset, uid("dimensions"))
    return segmentation


def _fix(segmentation: Any, dataset: Any, dimensions: str) -> None:
    """Replace what highdicom takes from the clock and from chance, and add what it leaves out."""
    days = (dataset.get(name) for name in ("ContentDate", "AcquisitionDate", "SeriesDate", "StudyDate"))
    times = (dataset.get(name) for name in ("ContentTime", "AcquisitionTime", "SeriesTime", "StudyTime"))
    segmentation.ContentDate = segmentation.InstanceCreationDate = next(filter(None, days), "19700101")
    segmentation.ContentTime = segmentation.InstanceCreationTime = next(filter(None, times), "000000")
    segmentation.PatientOrientation = dataset.get("PatientOrientation")
    segmentation.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: tasks may have any names
    for item in segmentation.get("ContributingEquipmentSequence", ()):
        item.pop("ContributionDateTime", None)
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions


def _describe(number: int, task: str, colour: str, algorithm: Any, tracking: str) -> Any:
    import highdicom

    category, code, region = _CODES.get(task, (_FINDING, None, None))
    name = _name(task)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=_code(*category),
        segmented_property_type=_code(
            *(code or (hashlib.sha256(task.encode()).hexdigest()[:16], _SCHEME, name))
        ),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=tracking,
        tracking_id=name,
        anatomic_regions=[_code(*region)] if region else None,
        display_color=highdicom.color.CIELabColor.from_string(colour),
    )


def _name(text: str) -> str:
    """As a DICOM long string holds it: a line of 64 bytes; a backslash would separate two values."""
    return " ".join(text.replace("\\", "/").split()).encode()[:64].decode(errors="ignore")


def _code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom.sr.coding import Code

    return Code(value, scheme, meaning)
