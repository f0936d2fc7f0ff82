"""Networks of the specialists, one a file."""

from .base import SpecialistNetwork
from .registry import NETWORKS, build_network

__all__ = ["NETWORKS", "SpecialistNetwork", "build_network"]
