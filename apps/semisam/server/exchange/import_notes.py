"""Which scans the RTSTRUCT and SEG objects belong to that earlier starts have read.

A scan with a final label keeps it, so an object that belongs to such scans only needs to be neither fetched nor read
again. Without the note, each start would do so with all of them before the server answers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from lib.core.errors import UserError
from lib.core.json_files import read_json, write_json
from server.store.folder_store import FINAL
from server.store.study import Study

logger = logging.getLogger("semisam.import")

_FILE = "imports.json"
_VERSION = 1


class ImportNotes:
    """The note of a study. It is no more than a shortcut: one that is lost is made anew.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        store = study.datastore
        self._path = study.place / _FILE
        self._finals = {name for name in store.list_images() if store.get_label_by_image_id(name, FINAL)}
        known = read_json(self._path) or {}
        scans = known.get("scans") if known.get("version") == _VERSION else None
        self._scans: dict[str, object] = dict(scans) if isinstance(scans, dict) else {}

    def all_final(self, scans: Iterable[str]) -> bool:
        """Whether each of these scans had a final label when the note was opened."""
        return self._finals.issuperset(scans)

    def passes(self, key: str) -> bool:
        """Whether an object is known to belong to scans only that have a final label."""
        scans = self._scans.get(key)
        return isinstance(scans, list) and bool(scans) and self.all_final(map(str, scans))

    def passes_file(self, path: Path) -> bool:
        """The same for a file."""
        return self.passes(file_key(path))

    def save(self, scans: dict[str, set[str]]) -> None:
        """Note to which scans objects belong, "" for one of which that is not known: it is read again."""
        told = {key: sorted(names) for key, names in scans.items() if names and "" not in names}
        if all(self._scans.get(key) == names for key, names in told.items()):
            return
        self._scans.update(told)
        try:
            write_json(self._path, {"version": _VERSION, "scans": self._scans})
        except (OSError, UserError) as error:
            logger.warning("It could not be noted what was imported, so the next start reads it again: %s", error)


def file_key(path: Path) -> str:
    """The key of a file; another one once it has changed. "" when it cannot be asked for."""
    try:
        facts = path.stat()
    except OSError:
        return ""
    return f"{path} {facts.st_size} {facts.st_mtime_ns}"
