"""Strategies: which scan a person should look at next."""

from .base import StudyStrategy
from .doubt import DOUBTS, HighestDoubt
from .recommended import Recommended
from .review import Review
from .template import Template
from .uniform import Uniform

__all__ = ["DOUBTS", "HighestDoubt", "Recommended", "Review", "StudyStrategy", "Template", "Uniform"]
