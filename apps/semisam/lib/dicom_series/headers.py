"""The planes of a DICOM file, by its header: one image, or the frames of a multi-frame object (PS3.3 C.7.6.16)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lib.core.errors import UserError

from .slices import Slice, Storage, Vector

NO_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "FID", "DOC", "PLAN", "RWV")
"""Modalities of objects that belong to images and are none."""
_PIXEL_TAG = b"\xe0\x7f\x10\x00"

_OFTEN = ("", ".ima", ".img")
"""What else the names of DICOM files end with."""

ONE_EACH = {
    "TemporalPositionIdentifier": "time point",
    "DiffusionBValue": "b-value",
    "EchoTime": "echo time",
    "ImageKind": "kind of image",
}
"""What is the same in all planes of one volume, and its name for a person."""
TELLING = {
    **ONE_EACH,
    "AcquisitionNumber": "acquisition number",
    "InversionTime": "inversion time",
    "FlipAngle": "flip angle",
    "SequenceName": "sequence name",
    "ConvolutionKernel": "convolution kernel",
    "KVP": "tube voltage",
    "NominalPercentageOfCardiacPhase": "cardiac phase",
    "StackID": "stack",
}
"""What may tell volumes at one place apart: each of its values is one volume."""
OF_ALL = {"FrameOfReferenceUID": "frame of reference", "PatientID": "patient"}
"""What all planes of a series have in common, where they name it: else they do not lie in one space (PS3.3 C.7.4.1)."""
MOMENTS = {"TriggerTime": "trigger time", "AcquisitionTime": "acquisition time"}
"""The same for moments, of which each plane has its own: the earliest of each place are one volume."""

_KINDS = {
    *("M", "P", "R", "I", "MAGNITUDE", "PHASE", "PHASE MAP", "REAL", "IMAGINARY", "MAG", "VELOCITY"),
    *("WATER", "FAT", "W", "F", "IP", "OP", "IN_PHASE", "OUT_PHASE", "OPP_PHASE", "INPHASE", "OUTPHASE", "OPPPHASE"),
    *("ADC", "FA", "TRACEW", "DIFFUSION", "T1 MAP", "T2 MAP", "T2_STAR MAP", "SUB", "MIN IP", "MIP"),
}
"""Words of Image Type (PS3.3 C.7.6.1.1.2) that say what the values are."""
_SIEMENS = (0x0019, 0x100C)
"""Where Siemens has kept the b-value."""


def header_of(path: Path) -> tuple[Dataset, int] | None:
    """A file's header and where it ends; None when the file is no DICOM object.

    Raises:
        UserError: (422) when the file is a damaged DICOM file.
    """
    with path.open("rb") as file:
        marked = file.read(132)[128:] == b"DICM"
        file.seek(0)
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=not marked)
            if not marked and ("SOPClassUID" not in header or "Rows" not in header):
                header = None
        except Exception as error:
            # pydicom raises many kinds of errors for damaged files, and for files that are no DICOM.
            if marked:
                raise damaged(path) from error
            header = None
        if header is None:
            suffix = path.suffix.lower()
            if suffix == ".dcm" or (suffix in _OFTEN and not path.stat().st_size):
                raise damaged(path)
            return None
        return header, file.tell()


def damaged(path: Path) -> UserError:
    """What to say of a file that cannot be read."""
    return UserError(
        f"{path.name} cannot be read: the file is damaged, cut short or no DICOM image. Copy or export it again.",
        status=422,
    )


def slices_of(path: Path, header: Dataset, offset: int) -> list[Slice]:
    """The planes of an image file.

    Args:
        path: the file.
        header: see ``header_of``.
        offset: where the header ends.

    Raises:
        UserError: (422) when the header lacks what every image has, or holds no numbers where there must be some.
    """
    try:
        storage = _storage(path, header, offset)
        if not header.get("PerFrameFunctionalGroupsSequence"):
            return [_one(path, None, header, [header], storage)]
        return list(_frames(path, header, storage))
    except (AttributeError, ValueError, TypeError, IndexError) as error:
        text = f"{path.name} is no usable image: its header lacks what every DICOM image has, or is damaged. "
        raise UserError(text + "Copy or export it again.", status=422) from error


def _storage(path: Path, header: Dataset, offset: int) -> Storage:
    syntax = str(getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID", ""))
    if not syntax:
        syntax = str(ImplicitVRLittleEndian if header.is_implicit_VR else ExplicitVRLittleEndian)
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    grey = int(header.get("SamplesPerPixel") or 1) == 1 and photometric.startswith("MONOCHROME")
    allocated = int(header.BitsAllocated)
    bits = int(header.get("BitsStored") or allocated)
    return Storage(
        syntax=syntax,
        offset=_plain_offset(path, syntax, offset) if int(header.get("HighBit", bits - 1)) == bits - 1 else None,
        allocated=allocated,
        bits=bits,
        signed=bool(int(header.get("PixelRepresentation") or 0)),
        inverted=photometric == "MONOCHROME1",
        colour="" if grey else photometric,
        frames=max(1, int(header.get("NumberOfFrames") or 1)),
    )


def _plain_offset(path: Path, syntax: str, offset: int) -> int | None:
    """Where pixels begin that lie in the file as they are."""
    if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return None
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(4) != _PIXEL_TAG:
            return None
    return offset + (8 if syntax == ImplicitVRLittleEndian else 12)


def _frames(path: Path, header: Dataset, storage: Storage) -> Iterator[Slice]:
    """The frames of a multi-frame file, in its order."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    own = header.PerFrameFunctionalGroupsSequence
    if len(own) != storage.frames:
        raise ValueError("as many functional groups as frames are needed")
    for frame, groups in enumerate(own):
        # What holds for one frame goes before what holds for all of them, and that before the file's own attributes.
        said = [each[0] for level in (groups, shared) for each in _sequences(level)]
        yield _one(path, frame, header, [*said, header], storage)


def _sequences(groups: Dataset) -> Iterator[Any]:
    for element in groups:
        if element.VR == "SQ" and element.value:
            yield element.value


def _one(path: Path, frame: int | None, header: Dataset, said: list[Dataset], storage: Storage) -> Slice:
    slope, intercept = _numbers(said, "RescaleSlope", 1), _numbers(said, "RescaleIntercept", 1)
    kinds = {str(w).strip().upper() for w in (_first(said, "FrameType") or header.get("ImageType") or ())}
    number = header.get("InstanceNumber")
    return Slice(
        path=path,
        frame=frame,
        kind=str(header.SOPClassUID),
        uid=str(header.SOPInstanceUID),
        series=str(header.get("SeriesInstanceUID") or ""),
        modality=str(header.get("Modality") or "?"),
        number=None if number is None or str(number) == "" else int(number),
        rows=int(header.Rows),
        columns=int(header.Columns),
        position=_numbers(said, "ImagePositionPatient", 3),
        orientation=_numbers(said, "ImageOrientationPatient", 6),
        spacing=_numbers(said, "PixelSpacing", 2),
        rescale=None if slope is None and intercept is None else ((slope or (1.0,))[0], (intercept or (0.0,))[0]),
        localizer="LOCALIZER" in kinds,
        storage=storage,
        description=str(header.get("SeriesDescription") or "").strip(),
        thickness=(_numbers(said, "SliceThickness", 1) or (None,))[0] or None,
        file=path.name,
        marks=dict(_marks(said, kinds)),
    )


def _marks(said: list[Dataset], kinds: set[str]) -> Iterator[tuple[str, str]]:
    synonyms = {
        "TemporalPositionIdentifier": ("TemporalPositionIdentifier", "TemporalPositionIndex"),
        "EchoTime": ("EffectiveEchoTime", "EchoTime"),
        "AcquisitionNumber": ("FrameAcquisitionNumber", "AcquisitionNumber"),
        "TriggerTime": ("NominalCardiacTriggerDelayTime", "TriggerTime"),
        "AcquisitionTime": ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime"),
    }
    for name in (*TELLING, *OF_ALL, *MOMENTS):
        value = next((v for word in synonyms.get(name, (name,)) if (v := _first(said, word)) is not None), None)
        if name == "DiffusionBValue" and value is None and _SIEMENS in said[-1]:
            value = said[-1][_SIEMENS].value
        if name == "ImageKind":
            value = " ".join(sorted(kinds & _KINDS)) or None
        if value is not None and str(value).strip():
            text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            day = str(_first(said, "AcquisitionDate") or "") if name == "AcquisitionTime" and len(text) < 14 else ""
            yield name, day + text.strip()


def _first(said: list[Dataset], keyword: str) -> Any:
    """The attribute in the first of several places that has it."""
    return next((v for each in said if (v := each.get(keyword)) not in (None, "")), None)


def _numbers(said: list[Dataset], keyword: str, count: int) -> Vector | None:
    value = _first(said, keyword)
    if value is None:
        return None
    numbers = tuple(float(v) for v in (value if count > 1 else [value]))
    if len(numbers) != count or not all(math.isfinite(v) for v in numbers):
        raise ValueError(keyword)
    if keyword == "PixelSpacing" and min(numbers) <= 0:
        raise ValueError(keyword)
    if keyword == "ImageOrientationPatient" and not _is_orientation(np.array(numbers)):
        raise ValueError(keyword)
    return numbers


def _is_orientation(cosines: np.ndarray) -> bool:
    """Whether two directions are at right angles, but for rounding."""
    along, down = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(along), np.linalg.norm(down)
    return bool(max(abs(n - 1) for n in lengths) < 0.01 and abs(along @ down) < 0.01)
