"""DICOM files made by hand, by pydicom alone; all of them hold `PLANTED`, which no message may."""

import io

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

#: Values that identify a patient, a study or a place.
PLANTED = {
    "PatientName": "Zyxwvut^Qponml",
    "PatientID": "ID-7316520",
    "PatientBirthDate": "19470203",
    "AccessionNumber": "ACC-99182",
    "InstitutionName": "Hospital of Utopia",
    "StudyInstanceUID": "1.2.3.7771",
    "SeriesInstanceUID": "1.2.3.7772",
    "SOPInstanceUID": "1.2.3.7773",
}
#: Pixels of eight bits, and of twelve.
EIGHT = np.random.default_rng(0).integers(0, 256, (71, 64)).astype(np.uint8)
TWELVE = np.linspace(0, 4095, 48 * 40).round().astype(np.uint16).reshape(48, 40)


def dataset(pixels, *, bits=None, syntax=ExplicitVRLittleEndian, **elements) -> FileDataset:
    """A computed radiograph of `pixels`, a colour one if they have three channels, with further elements by keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = PLANTED["SOPInstanceUID"]
    meta.TransferSyntaxUID = syntax
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    ds.SOPClassUID, ds.Modality, ds.PatientSex = ComputedRadiographyImageStorage, "CR", "O"
    ds.StudyDate, ds.StudyTime, ds.ReferringPhysicianName, ds.StudyID = "20200304", "101112", "", "1"
    ds.SeriesNumber, ds.InstanceNumber, ds.Manufacturer = 1, 1, "Maker"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    ds.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    ds.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    for name, value in {**PLANTED, **elements}.items():
        setattr(ds, name, value)
    return ds


def lookup_table(entries, first, bits) -> Dataset:
    """An item of a ModalityLUTSequence or VOILUTSequence."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    item.ModalityLUTType = "US"
    return item


def content(ds: FileDataset, **options) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    ds.save_as(file, **options)
    return file.getvalue()
