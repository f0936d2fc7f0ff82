"""Files of weights made up for tests."""

from __future__ import annotations

from pathlib import Path


def content(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock") if folder.exists() else []
