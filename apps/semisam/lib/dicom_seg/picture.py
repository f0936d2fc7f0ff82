"""The label of a single 2D image (an X-ray, an ultrasound picture) as DICOM SEG, pixel by pixel.

Such images rarely have a place in the patient. DICOM lets a SEG do without one (PS3.3, A.51.5): its frames then lie on
the pixels of the image that they refer to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from lib.core.errors import UserError

from .objects import Frame, Source, build, of
from .parts import Origin, Segment

_PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")


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
    source = Source(str(image.SOPClassUID), str(image.SOPInstanceUID))
    frames = (
        Frame(number, 1, source, (label[:, :, 0] == each.value).T) for number, each in enumerate(segments, start=1)
    )
    seg = build(image, [source], segments, frames, origin)
    shared = seg.SharedFunctionalGroupsSequence[0]
    if image.get("PixelSpacing"):
        measures = of(PixelSpacing=image.PixelSpacing, SliceThickness=image.get("SliceThickness") or 1)
        shared.PixelMeasuresSequence = [measures]
    if all(image.get(name) for name in _PLACE):
        seg.FrameOfReferenceUID, seg.PositionReferenceIndicator = image.FrameOfReferenceUID, ""
        shared.PlanePositionSequence = [of(ImagePositionPatient=image.ImagePositionPatient)]
        shared.PlaneOrientationSequence = [of(ImageOrientationPatient=image.ImageOrientationPatient)]
    return seg
