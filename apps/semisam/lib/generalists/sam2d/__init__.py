"""SAM, MedSAM, MobileSAM and LiteMedSAM: 2D networks that look at a volume slice by slice."""

from .adapter import MODELS, SliceGeneralist, build, random_state

__all__ = ["MODELS", "SliceGeneralist", "build", "random_state"]
