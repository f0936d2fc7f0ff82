"""Losses, one a file."""

from .consistency import consistency_mse
from .cross_entropy import soft_cross_entropy
from .dice import soft_dice
from .noise_tolerant_dice import noise_tolerant_dice

__all__ = ["consistency_mse", "noise_tolerant_dice", "soft_cross_entropy", "soft_dice"]
