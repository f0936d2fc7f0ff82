"""Infer tasks: what a viewer can ask for a scan."""

from .prompt import Prompt
from .propagate import Propagate
from .review import Review
from .segment import Segment
from .uncertainty import Uncertainty

__all__ = ["Prompt", "Propagate", "Review", "Segment", "Uncertainty"]
