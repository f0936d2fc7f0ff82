"""Frozen generalists: they turn a scan into dense features and are never trained."""

from .base import Generalist
from .registry import available_generalists, create_generalist

__all__ = ["Generalist", "available_generalists", "create_generalist"]
