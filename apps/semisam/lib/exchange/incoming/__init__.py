"""Labels of other programs on their way in: RTSTRUCT, SEG, nnU-Net data sets, and label files."""

from .base import Incoming, Taken, TargetScan
from .files import ENDINGS as LABEL_MAPS
from .find import Found, find_labels
from .matching import StudyScans

__all__ = ["LABEL_MAPS", "Found", "Incoming", "StudyScans", "Taken", "TargetScan", "find_labels"]
