"""The one trainer; its option ``recipe`` chooses how it trains."""

from .semisam import SemiSamTrainer

__all__ = ["SemiSamTrainer"]
