"""Losses, one a file."""

from .adversarial import judgement_loss
from .consistency import consistency_mse
from .cross_entropy import soft_cross_entropy
from .dice import soft_dice
from .dual_task import dual_task_consistency
from .masked_consistency import entropy_in_bits, masked_consistency
from .noise_tolerant_dice import noise_tolerant_dice
from .signed_distance import signed_distance_maps, signed_distance_mse

__all__ = [
    "consistency_mse",
    "dual_task_consistency",
    "entropy_in_bits",
    "judgement_loss",
    "masked_consistency",
    "noise_tolerant_dice",
    "signed_distance_maps",
    "signed_distance_mse",
    "soft_cross_entropy",
    "soft_dice",
]
