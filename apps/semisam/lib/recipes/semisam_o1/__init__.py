"""SemiSAM-O1: one outlined scan, iterative training, and refinement guided by uncertainty."""

from .recipe import RECIPE

__all__ = ["RECIPE"]
