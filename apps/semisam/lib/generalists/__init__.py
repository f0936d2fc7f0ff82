"""Frozen generalists: they turn a scan into dense features and are never trained."""

from .base import Generalist
from .entries import ENTRIES, Entry, find_entry
from .feature_cache import CachedGeneralist, FeatureCache, describing
from .registry import available_generalists, check_generalist, create_generalist, describe_generalists, takes_prompts
from .resident import RESIDENTS, ResidentGeneralist, Residents, unwrap, weights_of
from .weights.files import default_folder

__all__ = [
    "ENTRIES",
    "RESIDENTS",
    "CachedGeneralist",
    "Entry",
    "FeatureCache",
    "Generalist",
    "ResidentGeneralist",
    "Residents",
    "available_generalists",
    "check_generalist",
    "create_generalist",
    "default_folder",
    "describe_generalists",
    "describing",
    "find_entry",
    "takes_prompts",
    "unwrap",
    "weights_of",
]
