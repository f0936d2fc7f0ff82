"""MONAI Label's settings for DICOMweb, without those that nobody has chosen.

- Package: MONAI Label 0.8.5, ``monailabel/config.py``.
- Wrong: of itself it searches for CT only, and keeps lists of series for two hours. Neither can be told from a setting
  that an administrator has made to the same.
- Done: these two values count as not set.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/config.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel.config import settings

OWN_FILTER = {"Modality": "CT"}
OWN_EXPIRY = 7200


def search_filter() -> dict[str, Any]:
    """Conditions for series that an administrator has set, by DICOM keyword; empty for all scans."""
    chosen: dict[str, Any] = dict(settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER)
    return {} if chosen == OWN_FILTER else chosen


def list_seconds(default: float) -> float:
    """Age of a list of series at which it is fetched anew.

    Args:
        default: where an administrator has set nothing.
    """
    chosen = float(settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY)
    return default if chosen == OWN_EXPIRY else chosen


def cache_folder() -> Path:
    """The folder in which each DICOMweb server gets one for its series."""
    root = settings.MONAI_LABEL_DATASTORE_CACHE_PATH or settings.MONAI_LABEL_DICOMWEB_CACHE_PATH
    caches = Path(root.strip()) if root.strip() else Path.home() / ".cache" / "monailabel" / "dicom"
    return caches.expanduser()
