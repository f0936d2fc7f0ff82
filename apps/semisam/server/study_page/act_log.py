"""The acts of a study's readers on disk: one line each, and who is allowed to act at the moment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from lib.core.cache import stamp_of
from lib.core.errors import UserError
from lib.core.files import write_whole

_LOCK_SECONDS = 60
_MOST = 20_000
"""Acts that are remembered."""

Kind = Literal["accept", "send_back", "undo"]


@dataclass(frozen=True)
class Act:
    """Something that a reader has done.

    Args:
        act: what.
        scan: to which scan's pseudo-label.
        by: who.
        at: when, in seconds since 1970.
        label: version of the pseudo-label that the reader has seen.
        final: version of the final label that was made of it, empty for none.
        scores: what was known of the pseudo-label, for whoever takes this back.
    """

    act: Kind
    scan: str
    by: str
    at: float
    label: str = ""
    final: str = ""
    scores: Mapping[str, Any] = field(default_factory=dict)


class ActLog:
    """The acts, in a file.

    Args:
        path: the file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[object, tuple[Act, ...]] = None, ()

    @property
    def folder(self) -> Path:
        """Where the file lies."""
        return self._path.parent

    def stamp(self) -> object:
        """Changes with each act."""
        return stamp_of(self._path)

    def all(self) -> Sequence[Act]:
        """All acts, the oldest first; a line that a kill has cut is passed over."""
        known, stamp = self._known, self.stamp()
        if known[0] != stamp:
            self._known = known = stamp, tuple(_read(self._path))
        return known[1]

    def standing(self) -> dict[str, Act]:
        """The last act on each scan, those left out that were taken back."""
        found: dict[str, Act] = {}
        for act in self.all():
            if act.act == "undo":
                found.pop(act.scan, None)
            else:
                found[act.scan] = act
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold this from looking to noting, so that two readers do not act on one scan at the same time.

        Raises:
            UserError: (409) when somebody else holds it for too long.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
                yield
        except Timeout as error:
            raise UserError("Somebody else's act takes long. Try again.", status=409) from error

    def note(self, act: Act) -> None:
        """Add an act; the caller is ``alone``."""
        if len(self.all()) > _MOST + _MOST // 10:
            lines = [json.dumps(asdict(each)) for each in [*self.all()[-_MOST:], act]]
            text = "".join(f"{line}\n" for line in lines)
            write_whole(self._path, lambda whole: Path(whole).write_text(text, encoding="utf-8"))
            return
        whole = not self._path.is_file() or self._path.read_bytes()[-1:] in (b"", b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{'' if whole else chr(10)}{json.dumps(asdict(act))}\n")


def _read(path: Path) -> Iterator[Act]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            act = Act(**json.loads(line))
            if act.act in ("accept", "send_back", "undo"):
                yield act
        except (ValueError, TypeError):
            continue
