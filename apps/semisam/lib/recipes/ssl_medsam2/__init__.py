"""SSL-MedSAM2: few-shot pseudo-labels without training, refined by cross-validated trainings."""

from .recipe import RECIPE

__all__ = ["RECIPE"]
