"""Labels of other programs on their way in: RTSTRUCT, SEG, nnU-Net data sets, and label files."""

from .base import Incoming, Taken, TargetScan
from .find import Found, find_labels
from .matching import StudyScans

__all__ = ["Found", "Incoming", "StudyScans", "Taken", "TargetScan", "find_labels"]
