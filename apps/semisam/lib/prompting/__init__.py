"""Segmentation by prompts: clicks, a box, the previous answer."""

from .graph_cut import GraphCut, GraphCutOptions
from .session import Clicks, OpenScan, OpenScans
from .simulate import next_click

__all__ = ["Clicks", "GraphCut", "GraphCutOptions", "OpenScan", "OpenScans", "next_click"]
