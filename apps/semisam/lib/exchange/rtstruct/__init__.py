"""Labels as DICOM RT Structure Sets (PS3.3, A.19): closed contours on the slices of a series, written and read."""

from .read import RtStruct, read_rtstruct
from .write import write_rtstruct

__all__ = ["RtStruct", "read_rtstruct", "write_rtstruct"]
