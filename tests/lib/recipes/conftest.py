"""The study that most runs of recipes are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_study import make_tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Four scans, of which the first is outlined."""
    return make_tiny_study(tmp_path / "study")
