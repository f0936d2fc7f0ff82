"""Plain facts in JSON files, written whole, and a digest of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from .files import write_whole


def digest_of(content: Mapping[str, object]) -> str:
    """A text that changes with any of the plain types in ``content``; its keys are texts."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write plain types as JSON, whole or not at all."""

    def write(temporary: str) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)

    write_whole(path, write)


def read_json(path: Path) -> dict[str, object] | None:
    """What ``write_json`` wrote, None when it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
