"""Where the real scans for tests are; tests that need them skip when they are absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def folder_of(name: str) -> Path:
    """The folder of a data set, in ``SEMISAM_DATA`` or ``../shared/data``; skips the test when it is not there."""
    data = Path(os.environ.get("SEMISAM_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not (data / name).is_dir():
        pytest.skip(f"the real scans are not there ({data / name}); set SEMISAM_DATA to the folder that holds {name}")
    return data / name


def scans_of(folder: Path) -> dict[str, list[str]]:
    """Scan names of ``train`` and ``val``."""
    content: dict[str, list[str]] = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    return content
