"""The file with the scores of a study, written whole and under a lock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from lib.core.files import write_whole

_LOCK_SECONDS = 30

Entry = dict[str, Any]
"""What one method has found out about one scan: its values, ``of`` (the state they belong to) and ``ts``."""
Content = Mapping[str, Mapping[str, Entry]]
"""Entries by scan and method."""


class ScoresFile:
    """The file; the server, a scoring and a training write it at the same time.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[object, dict[str, dict[str, Entry]]] = None, {}

    def read(self) -> Mapping[str, Mapping[str, Entry]]:
        """All that is stored: by scan and method the values, ``of`` (their state) and ``ts``."""
        try:
            status = self._path.stat()
        except OSError:
            return {}
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        if stamp != self._known[0]:
            self._known = stamp, self.load()
        return self._known[1]

    def load(self) -> dict[str, dict[str, Entry]]:
        """The content as it is now, to be changed; empty when there is none or it is damaged."""
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def lock(self) -> FileLock:
        """To be held from ``load`` to ``write``."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._path.with_suffix(".lock"), timeout=_LOCK_SECONDS)

    def write(self, content: Mapping[str, Mapping[str, Entry]]) -> None:
        """Replace the content, in one step."""
        # One line a scan: people may read it, and it is written many times faster than with an indent.
        lines = (f"{json.dumps(name)}: {json.dumps(content[name], sort_keys=True)}" for name in sorted(content))
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        write_whole(self._path, lambda name: Path(name).write_text(text, encoding="utf-8"))
        self._known = None, {}
