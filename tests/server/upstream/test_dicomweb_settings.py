"""MONAI Label searches for CT only, and keeps lists for two hours, when nobody has asked for that."""

from __future__ import annotations

from pathlib import Path

import pytest
from monailabel.config import Settings, settings

from server.upstream import dicomweb_settings


def test_monai_labels_defaults_are_those_that_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY"):
        monkeypatch.delenv(name, raising=False)
    own = Settings()
    assert dict(own.MONAI_LABEL_DICOMWEB_SEARCH_FILTER) == dicomweb_settings.OWN_FILTER
    assert own.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY == dicomweb_settings.OWN_EXPIRY


def test_what_an_administrator_has_set_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", dicomweb_settings.OWN_FILTER)
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", dicomweb_settings.OWN_EXPIRY)
    assert dicomweb_settings.search_filter() == {}
    assert dicomweb_settings.list_seconds(10) == 10
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_SEARCH_FILTER", {"Modality": "MR"})
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY", 60)
    monkeypatch.setattr(settings, "MONAI_LABEL_DICOMWEB_CACHE_PATH", f" {tmp_path} ")
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_CACHE_PATH", "")
    assert dicomweb_settings.search_filter() == {"Modality": "MR"}
    assert dicomweb_settings.list_seconds(10) == 60
    assert dicomweb_settings.cache_folder() == tmp_path
