"""FM-ABS: three outlined slices a scan, and a foundation model that is asked slice by slice."""

from .recipe import RECIPE

__all__ = ["RECIPE"]
