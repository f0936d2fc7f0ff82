"""Semi-supervised regularisers, one a file."""

from .ac_mt import AmbiguityMeanTeacher
from .base import Observation, Regulariser, rows
from .dan import DeepAdversarial
from .dtc import DualTask
from .mean_teacher import MeanTeacher
from .registry import REGULARISERS, build_regulariser, teacher_memory
from .supervised import Supervised
from .ua_mt import UncertaintyAwareMeanTeacher

__all__ = [
    "REGULARISERS",
    "AmbiguityMeanTeacher",
    "DeepAdversarial",
    "DualTask",
    "MeanTeacher",
    "Observation",
    "Regulariser",
    "Supervised",
    "UncertaintyAwareMeanTeacher",
    "build_regulariser",
    "rows",
    "teacher_memory",
]
