"""SAM 2.1 in four sizes and MedSAM2: video models on the slices of a scan."""

from .adapter import Sam2Video, build, random_state

__all__ = ["Sam2Video", "build", "random_state"]
