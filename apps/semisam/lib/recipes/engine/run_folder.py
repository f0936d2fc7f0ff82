"""The state of a training on disk: written whole, so that a killed run can go on.

::

    <base>/run-20260101-120000-1/
        run.json          what the run works on: options, settings, versions, cases with fingerprints
        state.json        last finished round, whether the run is finished, digest of what it works on
        prepared/         what all rounds share; each file written whole
        rounds/0/ 1/ ...  finished rounds
        rounds/.part-2/   the round that is being worked on
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lib.core.errors import UserError
from lib.core.json_files import digest_of, read_json, write_json
from lib.parallel.ranks import Ranks

log = logging.getLogger("semisam.train")

KEPT_RUNS = 3
_WHOLE_FILE = 64 * 2**20
_PIECE = 2**20
_PREFIX = "run-"
_PART = ".part-"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder; see the module's text for what is in it.

    Args:
        path: the folder.
        ranks: who else works in it; the first one alone removes anything.
    """

    path: Path
    ranks: Ranks = field(default_factory=Ranks, compare=False, repr=False)

    @property
    def prepared(self) -> Path:
        """Where files that all rounds share are kept."""
        return self.path / "prepared"

    def finished_rounds(self) -> list[int]:
        """The rounds that were finished, the last one first."""
        rounds = self.path / "rounds"
        done = [int(p.name) for p in rounds.iterdir() if p.name.isdecimal()] if rounds.is_dir() else []
        return sorted(done, reverse=True)

    def finished_round(self) -> int | None:
        """The last round that was finished, None when there is none."""
        return next(iter(self.finished_rounds()), None)

    def round(self, index: int) -> Path:
        """Where a finished round lies."""
        return self.path / "rounds" / str(index)

    def drop_rounds(self, first: int) -> None:
        """Forget the round ``first`` and all later ones, finished or begun: its files turned out to be damaged."""
        for folder in (self.path / "rounds").iterdir():
            number = folder.name.removeprefix(_PART)
            if number.isdecimal() and int(number) >= first:
                _remove(folder)

    def new_round(self, index: int, keep: str | None = None) -> Path:
        """Begin a round: an empty folder, but for those files of a killed run that match the pattern ``keep``."""
        self.ranks.once(lambda: _clear(self._part(index), keep))
        return self.open_round(index)

    def open_round(self, index: int) -> Path:
        """The folder of a round that is not finished, with all that is in it."""
        part = self._part(index)
        part.mkdir(parents=True, exist_ok=True)
        return part

    def drop_part(self, index: int) -> None:
        """Forget what was written for a round that is not finished."""
        _remove(self._part(index))

    def end_round(self, index: int) -> Path:
        """Declare the round finished: from now on it is at ``round(index)``."""
        os.replace(self._part(index), self.round(index))
        self._note(finished_round=index, finished=False)
        return self.round(index)

    def digest(self) -> str:
        """What the run works on, as ``open_run`` has noted it."""
        return str((read_json(self.path / "run.json") or {}).get("digest"))

    def end_run(self) -> None:
        """Declare the run finished: it will not be continued."""
        self._note(finished_round=self.finished_round(), finished=True)

    def _part(self, index: int) -> Path:
        return self.path / "rounds" / f"{_PART}{index}"

    def _note(self, **facts: object) -> None:
        write_json(self.path / "state.json", {"digest": self.digest(), **facts})


def open_run(base: Path, identity: Mapping[str, object]) -> RunFolder:
    """The folder of an unfinished run with the same ``identity``, or of a new one; old ones are removed.

    Args:
        base: folder of all runs.
        identity: everything a run's results depend on; plain types.

    Raises:
        UserError: (507) when there is no space left.
    """
    base.mkdir(parents=True, exist_ok=True)
    digest = digest_of(identity)
    runs = _runs(base)
    if runs:
        written, state = _whole_run(runs[-1]), read_json(runs[-1] / "state.json") or {}
        if state.get("finished") is not True:
            # Several files know what the run works on: one may be damaged.
            if digest in (_told_elsewhere(runs[-1], state) if written is None else [written["digest"]]):
                if written is None:
                    log.warning("run.json of %s is damaged and written anew", runs[-1].name)
                    write_json(runs[-1] / "run.json", {"digest": digest, "started": _order(runs[-1])[0], **identity})
                return RunFolder(runs[-1])
            log.info("Starting anew: since the unfinished %s %s.", runs[-1].name, _changes(written or {}, identity))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 1 + max((_order(run)[1] for run in runs if _order(run)[0] == f"{_PREFIX}{stamp}"), default=0)
    folder = base / f"{_PREFIX}{stamp}-{number}"
    begun = base / f"{_PART}{_PREFIX}"  # a folder that is there has its notes
    _remove(begun)
    begun.mkdir()
    write_json(begun / "run.json", {"digest": digest, "started": stamp, **identity})
    write_json(begun / "state.json", {"digest": digest, "finished_round": None, "finished": False})
    os.replace(begun, folder)
    for old in _runs(base)[:-KEPT_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    return RunFolder(folder)


def _whole_run(run: Path) -> dict[str, object] | None:
    """What a run works on as it was written, None when that is damaged."""
    content = read_json(run / "run.json") or {}
    identity = {key: value for key, value in content.items() if key not in ("digest", "started")}
    return content if content.get("digest") == digest_of(identity) else None


def _told_elsewhere(run: Path, state: Mapping[str, object]) -> list[object]:
    """What a run works on, as the state and the finished rounds know it; nothing where it had not begun its work."""
    if not any((run / "rounds").glob("*")):
        return []
    rounds = (read_json(file) or {} for file in sorted(run.glob("rounds/*/round.json")))
    return [state.get("digest"), *(each.get("run") for each in rounds)]


def _changes(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """What differs between two identities, in a few words."""
    changed = []
    for key in sorted(now):
        old, new = before.get(key), json.loads(json.dumps(now[key]))
        if old != new:
            parts = (
                [k for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
                if isinstance(old, dict) and isinstance(new, dict)
                else []
            )
            others = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
            changed.append(key + (f" ({', '.join(parts[:3])}{others})" if parts else ""))
    return f"{', '.join(changed)} changed" if before and changed else "its notes were damaged"


@contextmanager
def only_one(base: Path) -> Iterator[None]:
    """Hold a lock on ``base``; a second training of any process is refused. A killed process lets go by itself.

    Raises:
        UserError: (409) when another training holds it.
    """
    base.mkdir(parents=True, exist_ok=True)
    with open(base / "lock", "w", encoding="utf-8") as file:
        if not _lock(file):
            raise UserError("A training is running already. Wait for it, or stop it first.", status=409)
        yield


def _lock(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # no such lock on Windows; MONAI Label itself refuses a second training there
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def fingerprint(path: Path) -> str:
    """A short text that changes when a file, or any file of a DICOM folder, changes.

    Small files are read whole; of large ones the size and pieces spread over the file.

    Raises:
        UserError: (404) when it is missing.
    """
    digest = hashlib.sha256()
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            size = file.stat().st_size
            digest.update(f"{file.relative_to(path)}:{size};".encode())
            whole = size <= _WHOLE_FILE
            with open(file, "rb") as content:
                for start in range(0, size, _PIECE) if whole else (size * n // 32 for n in range(32)):
                    content.seek(start)
                    digest.update(content.read(_PIECE))
                if not whole:  # a gzip stream ends with its checksum
                    content.seek(-64, os.SEEK_END)
                    digest.update(content.read())
    except OSError as error:
        raise UserError(f"{path.name} cannot be read ({error.strerror}).", status=404) from error
    return digest.hexdigest()[:32]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _clear(folder: Path, kept: str | None) -> None:
    """Remove what is in a folder, but for files whose names match a pattern."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if kept is None or not path.match(kept):
            _remove(path)


def _runs(base: Path) -> list[Path]:
    """All runs, the oldest first."""
    found = [p for p in base.iterdir() if p.is_dir() and p.name.startswith(_PREFIX)]
    return sorted(found, key=_order)


def _order(run: Path) -> tuple[str, int]:
    """When a run was started, and its number within that second."""
    stamp, _, number = run.name.rpartition("-")
    return stamp, int(number) if number.isdecimal() else 0
