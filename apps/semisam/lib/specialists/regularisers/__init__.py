"""Semi-supervised regularisers, one a file."""

from .base import Regulariser
from .mean_teacher import MeanTeacher

__all__ = ["MeanTeacher", "Regulariser"]
