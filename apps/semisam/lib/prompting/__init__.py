"""Segmentation by prompts: clicks, a box, the previous answer."""

from .dialogue import Clicks
from .graph_cut import GraphCut, GraphCutOptions
from .joined import Joined
from .session import OpenScan, OpenScans

__all__ = ["Clicks", "GraphCut", "GraphCutOptions", "Joined", "OpenScan", "OpenScans"]
