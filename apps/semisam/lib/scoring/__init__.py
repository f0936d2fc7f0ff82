"""Scoring: what is worked out about each scan, by one process or shared among several; knows not where it is kept."""

from .job import Job
from .judge import Asked, Basis, Judge
from .measures import MEASURES, QUALITY, REPRESENTATIVENESS, UNCERTAINTY
from .outcome import SCAN, Outcome, Refusal, refuse
from .shares import score_scans

__all__ = [
    "MEASURES",
    "QUALITY",
    "REPRESENTATIVENESS",
    "SCAN",
    "UNCERTAINTY",
    "Asked",
    "Basis",
    "Job",
    "Judge",
    "Outcome",
    "Refusal",
    "refuse",
    "score_scans",
]
