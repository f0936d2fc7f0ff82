"""A DICOM SEG (PS3.3, A.51) built frame by frame: each frame is one segment on one plane of the source images.

Not by highdicom (0.22): it refuses images without a frame of reference (X-rays, pictures, some old volumes) or without
any of the attributes of patient and study that DICOM allows to be empty, and writes names in other scripts without
saying in which character set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, UID, ExplicitVRLittleEndian, SegmentationStorage, generate_uid
from skimage.color import rgb2lab

from lib.core.errors import UserError

from .parts import CATEGORY, CODING_SCHEME, Origin, Segment, allow_any_script, text_in

INHERITED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""What a label has in common with its images; DICOM wants them all, empty where they are not known."""
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
_UID, _UID_CHARACTERS = re.compile(r"\d+(\.\d+)*"), 64
_SEGMENT_NUMBER = (0x0062000B, 0x0062000A)
_POSITION = (0x00200032, 0x00209113)
"""Tags of an attribute and of the group that it is in: what a SEG's frames are indexed by (PS3.3 C.7.6.17)."""
_DERIVED = ("113076", "DCM", "Segmentation")
_SOURCE = ("121322", "DCM", "Source image for image processing operation")
_PACKED = 8
"""Frames that are packed at once: so many end with a whole byte, whatever their size."""


@dataclass(frozen=True, eq=False)
class Source:
    """A plane of the source images, on which frames lie.

    Args:
        kind: its SOP class.
        uid: its SOP instance UID.
        frame: its frame number, from 1; None for an image of one frame.
        position: of its first pixel in mm, LPS; None where the images have no place.
    """

    kind: str
    uid: str
    frame: int | None = None
    position: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One segment on one plane.

    Args:
        segment: number of the segment, from 1.
        plane: number of the plane along the stack, from 1.
        source: the plane.
        mask: ``[rows, columns]`` boolean.
    """

    segment: int
    plane: int
    source: Source
    mask: np.ndarray


def build(
    image: Dataset, sources: Sequence[Source], segments: Sequence[Segment], frames: Iterable[Frame], origin: Origin
) -> Dataset:
    """Make a SEG of frames; what holds for all frames (size of a pixel, orientation) is left to the caller.

    Args:
        image: header of one of the images; the SEG inherits its patient and study.
        sources: all planes of the images.
        segments: the structures, in the order of their numbers.
        frames: at least one.
        origin: see there.

    Raises:
        UserError: (422) when a UID of the images is none by DICOM's rules, so that nothing may refer to it.
    """
    check_uids(image, sources, "DICOM SEG")
    seg = _empty(image, sources, origin)
    seg.SegmentSequence = [_described(number, each, origin) for number, each in enumerate(segments, start=1)]
    groups: list[Dataset] = []
    seg.PixelData = b"".join(_packed(frames, groups, seg))
    seg["PixelData"].VR = "OB"
    seg.NumberOfFrames = len(groups)
    seg.SharedFunctionalGroupsSequence = [Dataset()]
    seg.PerFrameFunctionalGroupsSequence = groups
    pointers = (_SEGMENT_NUMBER,) if sources[0].position is None else (_SEGMENT_NUMBER, _POSITION)
    dimensions = generate_uid()
    seg.DimensionOrganizationSequence = [of(DimensionOrganizationUID=dimensions)]
    seg.DimensionIndexSequence = [
        of(DimensionOrganizationUID=dimensions, DimensionIndexPointer=tag, FunctionalGroupPointer=group)
        for tag, group in pointers
    ]
    allow_any_script(seg, segments)
    return seg


def _packed(frames: Iterable[Frame], groups: list[Dataset], seg: Dataset) -> Iterator[bytes]:
    """The frames' pixels, eight in a byte, and padding; their functional groups are added to ``groups``."""
    waiting: list[np.ndarray] = []
    size = 0
    for frame in frames:
        seg.Rows, seg.Columns = frame.mask.shape
        groups.append(_groups(frame))
        waiting.append(frame.mask.ravel())
        if len(waiting) == _PACKED:
            packed = np.packbits(np.concatenate(waiting), bitorder="little").tobytes()
            waiting, size = [], size + len(packed)
            yield packed
    if waiting:
        packed = np.packbits(np.concatenate(waiting), bitorder="little").tobytes()
        size += len(packed)
        yield packed
    yield b"\0" * (size % 2)


def check_uids(image: Dataset, sources: Sequence[Source], what: str) -> None:
    """Refuse images that nothing may refer to.

    Args:
        image: header of one of them.
        sources: all of their planes.
        what: what is to be made, for the message.

    Raises:
        UserError: (422) when one of their UIDs is none by DICOM's rules.
    """
    found = [(name, text_in(image, name)) for name in _UIDS]
    found += [("SOPInstanceUID", source.uid) for source in sources]
    for name, uid in found:
        if not uid and name == "FrameOfReferenceUID":
            continue
        if len(uid) > _UID_CHARACTERS or not _UID.fullmatch(uid):
            wrong = (
                f"has {len(uid)} characters, and DICOM allows {_UID_CHARACTERS}"
                if len(uid) > _UID_CHARACTERS
                else "is empty"
                if not uid
                else "holds other characters than digits and dots"
            )
            raise UserError(
                f"No {what} can be made for this series: the {name} of its images {wrong}. "
                "Correct it in the images and send them again.",
                status=422,
            )


def made_object(image: Dataset, kind: UID, syntax: UID) -> FileDataset:
    """An object that the app makes about a series, in a series of its own, with what all kinds of them have.

    Args:
        image: of the series: patient and study are taken from it.
        kind: SOP class of the object.
        syntax: transfer syntax, little endian.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = syntax
    # PS3.10 7.1: viewers in a browser read no file without these. Whoever writes it puts the right length in.
    meta.FileMetaInformationGroupLength, meta.FileMetaInformationVersion = 0, b"\0\1"
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    made = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    made.is_little_endian, made.is_implicit_VR = True, syntax.is_implicit_VR
    made.SOPClassUID, made.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    for name in INHERITED:
        setattr(made, name, image.get(name, ""))
    if image.get("SpecificCharacterSet"):
        made.SpecificCharacterSet = image.SpecificCharacterSet
    made.SeriesInstanceUID, made.InstanceNumber = generate_uid(), 1
    made.Manufacturer = made.ManufacturerModelName = "semisam"
    return made


def _empty(image: Dataset, sources: Sequence[Source], origin: Origin) -> Dataset:
    """A SEG without segments and frames."""
    seg = made_object(image, SegmentationStorage, ExplicitVRLittleEndian)
    seg.Modality, seg.SeriesNumber = "SEG", 300
    seg.DeviceSerialNumber = seg.SoftwareVersions = "1"
    seg.ImageType, seg.SegmentationType, seg.SegmentsOverlap = ["DERIVED", "PRIMARY"], "BINARY", "NO"
    seg.ContentLabel, seg.ContentDescription = "SEGMENTATION", origin.description[:64]
    seg.ContentCreatorName = "semisam"
    seg.SamplesPerPixel, seg.PhotometricInterpretation, seg.LossyImageCompression = 1, "MONOCHROME2", "00"
    seg.BitsAllocated, seg.BitsStored, seg.HighBit, seg.PixelRepresentation = 1, 1, 0, 0
    instances = {source.uid: source.kind for source in sources}
    references = [of(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid) for uid, kind in instances.items()]
    seg.ReferencedSeriesSequence = [
        of(SeriesInstanceUID=image.SeriesInstanceUID, ReferencedInstanceSequence=references)
    ]
    return seg


def _described(number: int, segment: Segment, origin: Origin) -> Dataset:
    """A segment's entry in the list of segments."""
    lab = rgb2lab(np.array(segment.colour, dtype=float)[None, None] / 255)[0, 0]
    levels = np.clip([lab[0] / 100, (lab[1] + 128) / 255, (lab[2] + 128) / 255], 0, 1) * 65535
    entry = of(SegmentNumber=number, SegmentLabel=segment.text, SegmentDescription=segment.text)
    entry.SegmentAlgorithmType = origin.kind
    if origin.algorithm_name is not None:
        entry.SegmentAlgorithmName = origin.algorithm_name
    entry.RecommendedDisplayCIELabValue = [round(float(v)) for v in levels]
    entry.SegmentedPropertyCategoryCodeSequence = [code(CATEGORY[0], CODING_SCHEME, CATEGORY[1])]
    entry.SegmentedPropertyTypeCodeSequence = [code(segment.code[0], CODING_SCHEME, segment.code[1])]
    return entry


def _groups(frame: Frame) -> Dataset:
    """What holds for one frame (its functional groups); readers look here for the image that it was drawn on."""
    source = frame.source
    reference = of(ReferencedSOPClassUID=source.kind, ReferencedSOPInstanceUID=source.uid)
    if source.frame is not None:
        reference.ReferencedFrameNumber = source.frame
    reference.PurposeOfReferenceCodeSequence = [code(*_SOURCE)]
    reference.SpatialLocationsPreserved = "YES"
    derivation = of(SourceImageSequence=[reference], DerivationCodeSequence=[code(*_DERIVED)])
    index = [frame.segment] if source.position is None else [frame.segment, frame.plane]
    groups = of(
        FrameContentSequence=[of(DimensionIndexValues=index)],
        SegmentIdentificationSequence=[of(ReferencedSegmentNumber=frame.segment)],
        DerivationImageSequence=[derivation],
    )
    if source.position is not None:
        groups.PlanePositionSequence = [of(ImagePositionPatient=decimals(source.position))]
    return groups


def decimals(values: Iterable[float]) -> list[pydicom.valuerep.DSfloat]:
    """Numbers as DICOM's decimal strings: of at most 16 characters."""
    return [pydicom.valuerep.DSfloat(float(v), auto_format=True) for v in values]


def of(**values: object) -> Dataset:
    """A data set with these attributes."""
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An entry of a sequence of codes."""
    return of(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
