"""Propagation: one outlined scan in, soft labels on another out."""

from .base import Propagator, SoftLabels, Template
from .features import encoding_grid
from .fusion import MOST_TEMPLATES, most_similar, propagate_from, rank_templates, signature
from .registry import available_propagators, create_propagator

__all__ = [
    "MOST_TEMPLATES",
    "Propagator",
    "SoftLabels",
    "Template",
    "available_propagators",
    "create_propagator",
    "encoding_grid",
    "most_similar",
    "propagate_from",
    "rank_templates",
    "signature",
]
