"""SC-SAM: a U-Net and a SAM that teach each other."""

from .recipe import RECIPE

__all__ = ["RECIPE"]
