"""Labels as DICOM Segmentation objects (DICOM PS3.3, A.51), written frame by frame on the images they belong to.

A SEG numbers its segments 1, 2, ... without a gap, so a structure that is absent moves the numbers of those after it:
what a segment is, only its name says. Frames may be left out and come in any order; each says where it lies.
"""

from .header import SegHeader
from .parts import Origin, Segment
from .read import read_seg
from .rejection import rejection_series, write_rejection
from .write import write_seg

__all__ = ["Origin", "SegHeader", "Segment", "read_seg", "rejection_series", "write_rejection", "write_seg"]
