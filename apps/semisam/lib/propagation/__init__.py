"""Propagation: one outlined scan in, soft labels on another out."""

from .base import Propagator, SoftLabels, Template
from .doubts import doubts, nothing_found
from .features import encoding_grid, features_on
from .fusion import MOST_TEMPLATES, most_similar, propagate_from, rank_templates, signature
from .locate import locate
from .registry import available_propagators, create_propagator

__all__ = [
    "MOST_TEMPLATES",
    "Propagator",
    "SoftLabels",
    "Template",
    "available_propagators",
    "create_propagator",
    "doubts",
    "encoding_grid",
    "features_on",
    "locate",
    "most_similar",
    "nothing_found",
    "propagate_from",
    "rank_templates",
    "signature",
]
