"""Scoring methods: what is worked out about the scans behind the server's back."""

from .uncertainty import UncertaintyScoring

__all__ = ["UncertaintyScoring"]
