"""DICOM series as volumes, checked before they are trusted.

A series is a heap of images, each of which says where it lies (PS3.3 C.7.6.2). It may lack slices, hold some twice,
hold localizers, several time points or other series' images, or be tilted. ``collect`` finds the images, ``choose``
those of one volume, ``stack`` checks that they are an even stack, ``pixels`` reads them. What cannot be read rightly is
refused with a text that names the image and the reason.
"""

from .collect import collect
from .notes import keep_notes, kept_notes, notes_file
from .read import SLICES, SeriesVolume, find_stack, is_dicom, is_dicom_image, read_stack
from .slices import Slice
from .stack import Stack

__all__ = [
    "SLICES",
    "SeriesVolume",
    "Slice",
    "Stack",
    "collect",
    "find_stack",
    "is_dicom",
    "is_dicom_image",
    "keep_notes",
    "kept_notes",
    "notes_file",
    "read_stack",
]
