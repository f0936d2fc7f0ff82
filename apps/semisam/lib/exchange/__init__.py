"""Out of semisam and in: labels as other programs keep them.

Out (``folder``): an nnU-Net data set, BIDS derivatives, DICOM SEG and RTSTRUCT, NIfTI with a table. In (``incoming``):
what other programs have drawn, with their names mapped to the study's structures (``name_table``).
"""

from .folder import Candidate, ExportFolder, Outcome
from .formats import FORMATS, ExportOptions, export_format
from .labelled import LabelledScan, is_annotated
from .names import bids_names, file_names

__all__ = [
    "FORMATS",
    "Candidate",
    "ExportFolder",
    "ExportOptions",
    "LabelledScan",
    "Outcome",
    "bids_names",
    "export_format",
    "file_names",
    "is_annotated",
]
