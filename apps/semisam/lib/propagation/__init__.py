"""Propagation: one outlined scan in, soft labels on another out."""

from .base import Propagator, SoftLabels, Template
from .coarse_roi import find_roi
from .features import encoding_grid, features_on
from .fusion import MOST_TEMPLATES, most_similar, propagate_from, signature
from .registry import available_propagators, create_propagator
from .warnings import nothing_found, warnings_about, warnings_of

__all__ = [
    "MOST_TEMPLATES",
    "Propagator",
    "SoftLabels",
    "Template",
    "available_propagators",
    "create_propagator",
    "encoding_grid",
    "features_on",
    "find_roi",
    "most_similar",
    "nothing_found",
    "propagate_from",
    "signature",
    "warnings_about",
    "warnings_of",
]
