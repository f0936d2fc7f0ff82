"""SemiSAM+: a specialist in training asks frozen foundation models about unlabelled scans."""

from .recipe import RECIPE

__all__ = ["RECIPE"]
