"""Propagation: one outlined scan in, soft labels on another out."""

from .base import Propagator, SoftLabels, Template
from .features import encoding_grid
from .fusion import propagate_from, rank_templates
from .registry import available_propagators, create_propagator

__all__ = [
    "Propagator",
    "SoftLabels",
    "Template",
    "available_propagators",
    "create_propagator",
    "encoding_grid",
    "propagate_from",
    "rank_templates",
]
