"""A study whose training is listened to."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.core.labels import LabelSchema
from lib.setup.settings import Settings
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from tiny_study import TINY_LABELS, make_tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three scans, of which the first is outlined."""
    folder = make_tiny_study(tmp_path / "study", scans=3)
    settings = Settings(labels=LabelSchema(TINY_LABELS))
    return Study(str(folder), StudyDatastore(str(folder)), settings, tmp_path / "models")
