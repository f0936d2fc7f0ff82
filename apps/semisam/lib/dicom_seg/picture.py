"""The label of a single 2D image (an X-ray, an ultrasound picture) as DICOM SEG, pixel by pixel.

dcmqi needs a place in the patient, which such images rarely have. DICOM lets a SEG do without one (PS3.3, A.51.5): its
frames then lie on the pixels of the image that they refer to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixel_data_handlers.numpy_handler import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage, generate_uid
from skimage.color import rgb2lab

from ..errors import UserError
from .parts import CATEGORY, CODING_SCHEME, Origin, Segment, allow_any_script

_INHERITED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""What a SEG has in common with its image; DICOM wants them all, empty where they are not known."""
_PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_DERIVED = ("113076", "DCM", "Segmentation")
_SOURCE = ("121322", "DCM", "Source image for image processing operation")


def write_flat_seg(label: np.ndarray, image: pydicom.Dataset, segments: Sequence[Segment], origin: Origin) -> Dataset:
    """Make a SEG of a 2D image's label, with one frame for each structure.

    Args:
        label: ``[W, H, 1]`` uint8: columns and rows of the image.
        image: the image, at least its header.
        segments: the structures; each occurs in ``label``.
        origin: see there.

    Raises:
        UserError: (422) when the image has another size than the label, or more than one frame.
    """
    size = int(image.get("Columns") or 0), int(image.get("Rows") or 0)
    if int(image.get("NumberOfFrames") or 1) != 1 or size != label.shape[:2]:
        raise UserError("No DICOM SEG can be made for this series: it is no single 2D image of one frame.", status=422)
    seg = _empty(image, origin)
    seg.Columns, seg.Rows = size
    seg.SegmentSequence = [_described(number, each, origin) for number, each in enumerate(segments, start=1)]
    seg.NumberOfFrames = len(segments)
    dimensions = generate_uid()
    seg.DimensionOrganizationSequence = [_of(DimensionOrganizationUID=dimensions)]
    pointer = _of(DimensionIndexPointer=0x0062000B, FunctionalGroupPointer=0x0062000A)
    pointer.DimensionOrganizationUID = dimensions
    seg.DimensionIndexSequence = [pointer]
    seg.SharedFunctionalGroupsSequence = [_shared(seg, image)]
    seg.PerFrameFunctionalGroupsSequence = [_frame(number, image) for number in range(1, len(segments) + 1)]
    masks = np.stack([(label[:, :, 0] == each.value).T for each in segments])
    seg.PixelData = pack_bits(masks.astype(np.uint8).ravel())
    seg["PixelData"].VR = "OB"
    allow_any_script(seg, segments)
    return seg


def _empty(image: Dataset, origin: Origin) -> Dataset:
    """A SEG without segments and frames."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SegmentationStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    seg = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    seg.is_little_endian, seg.is_implicit_VR = True, False
    seg.SOPClassUID, seg.SOPInstanceUID = SegmentationStorage, meta.MediaStorageSOPInstanceUID
    for name in _INHERITED:
        setattr(seg, name, image.get(name, ""))
    if image.get("SpecificCharacterSet"):
        seg.SpecificCharacterSet = image.SpecificCharacterSet
    seg.Modality, seg.SeriesInstanceUID, seg.SeriesNumber, seg.InstanceNumber = "SEG", generate_uid(), 300, 1
    seg.Manufacturer = seg.ManufacturerModelName = "semisam"
    seg.DeviceSerialNumber = seg.SoftwareVersions = "1"
    seg.ImageType, seg.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    seg.ContentLabel, seg.ContentDescription, seg.ContentCreatorName = (
        "SEGMENTATION",
        origin.description[:64],
        "semisam",
    )
    seg.SamplesPerPixel, seg.PhotometricInterpretation, seg.LossyImageCompression = 1, "MONOCHROME2", "00"
    seg.BitsAllocated, seg.BitsStored, seg.HighBit, seg.PixelRepresentation = 1, 1, 0, 0
    reference = _of(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    seg.ReferencedSeriesSequence = [
        _of(SeriesInstanceUID=image.SeriesInstanceUID, ReferencedInstanceSequence=[reference])
    ]
    return seg


def _described(number: int, segment: Segment, origin: Origin) -> Dataset:
    """A segment's entry in the list of segments."""
    lab = rgb2lab(np.array(segment.colour, dtype=float)[None, None] / 255)[0, 0]
    levels = np.clip([lab[0] / 100, (lab[1] + 128) / 255, (lab[2] + 128) / 255], 0, 1) * 65535
    entry = _of(SegmentNumber=number, SegmentLabel=segment.text, SegmentDescription=segment.text)
    entry.SegmentAlgorithmType = origin.kind
    if origin.algorithm_name is not None:
        entry.SegmentAlgorithmName = origin.algorithm_name
    entry.RecommendedDisplayCIELabValue = [round(float(v)) for v in levels]
    entry.SegmentedPropertyCategoryCodeSequence = [_code(CATEGORY[0], CODING_SCHEME, CATEGORY[1])]
    entry.SegmentedPropertyTypeCodeSequence = [_code(segment.code[0], CODING_SCHEME, segment.code[1])]
    return entry


def _shared(seg: Dataset, image: Dataset) -> Dataset:
    """What holds for all frames: the size of a pixel, and the place of the image, if it has them."""
    shared = Dataset()
    if image.get("PixelSpacing"):
        measures = _of(PixelSpacing=image.PixelSpacing)
        measures.SliceThickness = image.get("SliceThickness") or 1
        shared.PixelMeasuresSequence = [measures]
    if all(image.get(name) for name in _PLACE):
        seg.FrameOfReferenceUID, seg.PositionReferenceIndicator = image.FrameOfReferenceUID, ""
        shared.PlanePositionSequence = [_of(ImagePositionPatient=image.ImagePositionPatient)]
        shared.PlaneOrientationSequence = [_of(ImageOrientationPatient=image.ImageOrientationPatient)]
    return shared


def _frame(number: int, image: Dataset) -> Dataset:
    """What holds for the frame of a segment; readers look here for the image that it was drawn on."""
    source = _of(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
    source.PurposeOfReferenceCodeSequence = [_code(*_SOURCE)]
    derivation = _of(SourceImageSequence=[source], DerivationCodeSequence=[_code(*_DERIVED)])
    return _of(
        FrameContentSequence=[_of(DimensionIndexValues=[number])],
        SegmentIdentificationSequence=[_of(ReferencedSegmentNumber=number)],
        DerivationImageSequence=[derivation],
    )


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _of(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _of(**values: object) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset
