"""Write scans in the formats that studies come in."""

from __future__ import annotations

from pathlib import Path

import itk
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset

from lib.core.geometry import spacing_of

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def save_itk(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    """Write NRRD or MHA with ITK, which knows places in LPS and arrays as k, j, i."""
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    lps = LPS @ affine
    spacing = spacing_of(affine)
    image.SetSpacing(spacing)
    image.SetOrigin(lps[:3, 3])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
    itk.imwrite(image, str(path))
    return path


def save_dicom(folder: Path, array: np.ndarray, affine: np.ndarray, thickness: float) -> Path:
    """Write a CT series; the affine's third column is the slice step. File names run against the slice order."""
    folder.mkdir()
    lps = LPS @ affine
    spacing = spacing_of(affine)
    series, study = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    for k in range(array.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        name = folder / f"{array.shape[2] - k:03d}.dcm"
        slice_ = FileDataset(str(name), {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID = series, study
        slice_.Modality, slice_.PatientID, slice_.InstanceNumber = "CT", "synthetic", k + 1
        slice_.ImagePositionPatient = [round(float(v), 6) for v in (lps @ [0, 0, k, 1])[:3]]
        slice_.ImageOrientationPatient = [
            round(float(v), 8) for v in np.concatenate([lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]])
        ]
        # DICOM names the step between rows (j) first.
        slice_.PixelSpacing = [spacing[1], spacing[0]]
        slice_.SliceThickness = thickness
        slice_.Rows, slice_.Columns = array.shape[1], array.shape[0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
        slice_.is_little_endian, slice_.is_implicit_VR = True, False
        slice_.PixelData = np.ascontiguousarray(array[:, :, k].T).tobytes()
        slice_.save_as(name)
    return folder
