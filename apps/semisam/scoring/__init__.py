"""Scoring methods: what is worked out about the scans behind the server's back."""

from .base import StudyScoring
from .one_pass import run_pass
from .pseudo_label_quality import PseudoLabelQuality
from .representativeness import Representativeness
from .several import score_study
from .uncertainty import UncertaintyScoring

__all__ = [
    "PseudoLabelQuality",
    "Representativeness",
    "StudyScoring",
    "UncertaintyScoring",
    "run_pass",
    "score_study",
]
