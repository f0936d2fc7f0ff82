"""Strategies: which scan a person should look at next."""

from .recommended import Recommended
from .uniform import Uniform

__all__ = ["Recommended", "Uniform"]
