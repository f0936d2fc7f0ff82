"""Strategies: which scan a person should look at next."""

from .base import StudyStrategy
from .recommended import Recommended
from .review import Review
from .template import Template
from .uncertainty import MEASURES, HighestUncertainty
from .uniform import Uniform

__all__ = [
    "MEASURES",
    "HighestUncertainty",
    "Recommended",
    "Review",
    "StudyStrategy",
    "Template",
    "Uniform",
]
