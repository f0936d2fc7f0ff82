"""Segmentation by prompts: clicks, a box, the previous answer."""

from .graph_cut import GraphCut, GraphCutOptions
from .session import Clicks, OpenScan, OpenScans

__all__ = ["Clicks", "GraphCut", "GraphCutOptions", "OpenScan", "OpenScans"]
