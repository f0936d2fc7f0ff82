"""Notes beside label files: the facts of each label, found again by the hash of its file.

To ``labels/TAG/NAME.nii.gz`` (or another format) belongs ``labels/.facts/TAG/NAME.json``. It holds the facts of the
last contents of that label, each with the SHA-256 of its file. So what the values in a file mean is told by the file
alone: a file that was copied over by hand has no facts, and one that comes back has its own again.

A label is replaced in this order: the notes with the facts of both contents and the names of the files that will go,
the new file, the old files of other formats, the notes without those names. After a kill at any moment it is the old
label or the new one, and ``Notes.outdated`` names what is left to delete.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.core.files import sha256_of, write_whole

from .label_facts import LabelFacts

logger = logging.getLogger("semisam.store")

FOLDER = ".facts"
_KEPT = 4
"""Contents whose facts are remembered: somebody may bring the last one back."""
_VERSION = 1

_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Noted:
    """The facts of one content, and the file that held it.

    Args:
        facts: see ``LabelFacts``.
        file: its name.
        stamp: size, time of change and inode, by which the file is known again without reading it.
    """

    facts: LabelFacts
    file: str
    stamp: _Stamp = (0, 0, 0)


@dataclass(frozen=True)
class Notes:
    """What lies beside the label of a scan.

    Args:
        labels: the last contents, the newest last.
        replaces: names of files of other formats that are to be deleted once the newest content is there.
    """

    labels: tuple[Noted, ...] = ()
    replaces: tuple[str, ...] = ()

    def to_text(self) -> str:
        """The content of the file."""
        entries = [{**n.facts.to_json(), "file": n.file, "stamp": list(n.stamp)} for n in self.labels]
        content = {"version": _VERSION, "labels": entries, "replaces": list(self.replaces)}
        return json.dumps(content, indent=1, default=str)

    @classmethod
    def from_text(cls, text: str) -> Notes:
        """Reads ``to_text``.

        Raises:
            ValueError, TypeError, KeyError: for anything else.
        """
        content = json.loads(text)
        labels = tuple(_noted(entry) for entry in content["labels"])
        return cls(labels, tuple(str(name) for name in content.get("replaces", ())))


def _noted(entry: Mapping[str, Any]) -> Noted:
    size, changed, inode = (int(n) for n in entry["stamp"])
    return Noted(LabelFacts.from_json(entry), str(entry["file"]), (size, changed, inode))


class LabelNotes:
    """Reads and writes notes; what was read is remembered while the files do not change."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[_Stamp, Notes]] = {}
        self._digests: dict[Path, tuple[_Stamp, str]] = {}

    def read(self, folder: Path, name: str) -> Notes:
        """The notes of a scan's label in a tag's folder; empty ones when there are none or they are damaged."""
        path = _place(folder, name)
        try:
            stamp = _stamp(path)
            if path not in self._read or self._read[path][0] != stamp:
                self._read[path] = stamp, Notes.from_text(path.read_text(encoding="utf-8"))
            return self._read[path][1]
        except OSError:
            return Notes()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("%s is damaged; what its label's values are called is not known: %s", path, error)
            return Notes()

    def of(self, file: Path, name: str) -> LabelFacts | None:
        """What is known of the content that a label file has now."""
        noted = self._find(file, self.read(file.parent, name))
        return None if noted is None else noted.facts

    def current(self, folder: Path, name: str, files: Sequence[str]) -> str:
        """Which of several label files of a scan counts: the one noted last, else the newest one.

        Args:
            folder: of the tag.
            name: of the scan.
            files: at least one.
        """
        if len(files) == 1:
            return files[0]
        notes = self.read(folder, name)
        for noted in reversed(notes.labels):
            same = [f for f in files if self._digest(folder / f, notes) == noted.facts.content]
            if same:
                return noted.file if noted.file in same else same[0]
        return max(sorted(files), key=lambda f: _time(folder / f))

    def outdated(self, folder: Path, name: str, files: Sequence[str]) -> list[str]:
        """Files that an interrupted change was about to delete, and whose place another one has taken."""
        notes = self.read(folder, name)
        if not notes.replaces or not notes.labels:
            return []
        newest = notes.labels[-1]
        if newest.file not in files or self._digest(folder / newest.file, notes) != newest.facts.content:
            return []
        return [f for f in files if f in notes.replaces and f != newest.file]

    def prepare(self, temporary: Path, target: Path, name: str, facts: LabelFacts, others: Sequence[str]) -> LabelFacts:
        """Note the facts of a label file that is about to be moved to its place; ``finish`` has to be called then.

        Args:
            temporary: the label, on the same disk as its place.
            target: its place.
            name: of its scan.
            facts: what is known of it; ``content`` is filled in.
            others: names of the files of other formats, whose place it takes.

        Returns:
            The facts as they are noted.
        """
        known = replace(facts, content=sha256_of(temporary))
        # Moving the file keeps size, time and inode.
        noted = Noted(known, target.name, _stamp(temporary))
        self._write(target.parent, name, _with(self.read(target.parent, name), noted, others))
        return known

    def note(self, file: Path, name: str, facts: LabelFacts, *, lasting: bool = True) -> LabelFacts:
        """Note facts of a label file that is there; ``content`` is filled in.

        Args:
            file: the label.
            name: of its scan.
            facts: what is known of it.
            lasting: wait until they are on the disk; else a loss of power may lose them.

        Raises:
            OSError: when it cannot be read, or the notes not be written.
        """
        notes = self.read(file.parent, name)
        known = replace(facts, content=self._digest(file, notes))
        noted = _with(notes, Noted(known, file.name, _stamp(file)), notes.replaces)
        self._write(file.parent, name, noted, lasting=lasting)
        return known

    def finish(self, folder: Path, name: str, others: Sequence[str]) -> None:
        """Delete the files whose place another one has taken."""
        for other in others:
            (folder / other).unlink(missing_ok=True)
        notes = self.read(folder, name)
        if notes.replaces:
            self._write(folder, name, replace(notes, replaces=()))

    def delete(self, folder: Path, name: str) -> None:
        """Delete the notes of a label that was deleted."""
        _place(folder, name).unlink(missing_ok=True)

    def _write(self, folder: Path, name: str, notes: Notes, *, lasting: bool = True) -> None:
        text, place = notes.to_text(), _place(folder, name)
        Notes.from_text(text)  # rather no change than notes that nobody can read
        if lasting:
            write_whole(place, lambda n: Path(n).write_text(text, encoding="utf-8"))
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".part-{os.getpid()}-{threading.get_ident()}.json")
        part.write_text(text, encoding="utf-8")
        os.replace(part, place)

    def _find(self, file: Path, notes: Notes) -> Noted | None:
        if not notes.labels or not file.is_file():
            return None
        content = self._digest(file, notes)
        return next((n for n in reversed(notes.labels) if n.facts.content == content), None)

    def _digest(self, file: Path, notes: Notes) -> str:
        """SHA-256 of a label file; of one that has not changed since it was noted, the noted one."""
        try:
            stamp = _stamp(file)
            fine = stamp[1] % 10**9 != 0  # else the file system counts in seconds, and says nothing about the last one
            for noted in reversed(notes.labels):
                if fine and noted.stamp == stamp:
                    return noted.facts.content
            if not fine or file not in self._digests or self._digests[file][0] != stamp:
                self._digests[file] = stamp, sha256_of(file)
        except OSError:
            return ""
        return self._digests[file][1]


def _place(folder: Path, name: str) -> Path:
    """Where the notes of a scan's label in a tag's folder lie: not in that folder itself, which is people's."""
    return folder.parent / FOLDER / folder.name / f"{name}.json"


def _with(notes: Notes, noted: Noted, replaces: Sequence[str]) -> Notes:
    others = [n for n in notes.labels if n.facts.content != noted.facts.content]
    return Notes((*others[-(_KEPT - 1) :], noted), tuple(replaces))


def _stamp(path: Path) -> _Stamp:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
