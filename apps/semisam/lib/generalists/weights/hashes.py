"""Whether a file of weights is the right one: its hash against the published one, or against the first one accepted."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lib.core.errors import UserError
from lib.core.json_files import read_json, write_json
from lib.generalists.entries import Entry, WeightsFile

from .download import Progress
from .files import file_of, need_weights, path_of

_PIECE = 2**20


@dataclass(frozen=True)
class Digest:
    """Hashes of a file, in hexadecimal; ``md5`` is empty where nobody asks for it."""

    sha256: str
    md5: str = ""


def digest_of(path: Path, weights: WeightsFile, progress: Progress | None = None) -> Digest:
    """Read a file and take the hashes that are needed to compare it."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    total, done = path.stat().st_size, 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            sha256.update(piece)
            if weights.md5:
                md5.update(piece)
            done += len(piece)
            if progress:
                progress(done, total)
    return Digest(sha256.hexdigest(), md5.hexdigest() if weights.md5 else "")


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def is_official(entry: Entry, found: Digest) -> bool | None:
    """Whether hashes are the published ones; None when none are published."""
    weights = file_of(entry)
    if weights.sha256:
        return found.sha256 == weights.sha256
    return found.md5 == weights.md5 if weights.md5 else None


def check_digest(entry: Entry, path: Path, found: Digest) -> None:
    """Compare with what is published, or accepted before; ``path`` is the final place of the file."""
    weights, official = file_of(entry), is_official(entry, found)
    record = read_json(_record_path(path)) or {}
    if official or (record.get("sha256") == found.sha256 and (official is None or record.get("unofficial"))):
        return
    if official is False:
        kind, got, wanted = (
            ("sha256", found.sha256, weights.sha256) if weights.sha256 else ("md5", found.md5, weights.md5)
        )
        raise UserError(
            f"This is not the official file of {entry.name}, or it is damaged: its {kind} is {got}, expected {wanted}. "
            f"Get {weights.name} again from {weights.page}. Weights of your own can be imported with --unofficial.",
            status=422,
        )
    if "sha256" in record:
        raise UserError(
            f"The file of {entry.name} is another one than before: its sha256 is {found.sha256}, that of the first was "
            f"{record['sha256']}. Bring back the first one; if the change is wanted (a new version), import the file "
            "with --unofficial.",
            status=422,
        )


def write_record(entry: Entry, path: Path, found: Digest, source: str) -> None:
    """Note the hash, size and time of a checked file beside it, and where it came from."""
    stat = path.stat()
    content = {
        "sha256": found.sha256,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "unofficial": is_official(entry, found) is False,
        "source": source,
    }
    write_json(_record_path(path), content)


def source_of(path: Path) -> str:
    """Where a file came from, as recorded: an address, the path of its import, or a package's file and a part of it."""
    return str((read_json(_record_path(path)) or {}).get("source", "found in the folder"))


_SEEN: dict[str, tuple[int, int, Digest]] = {}
"""Size, time and hash of each file that was read last, by path: a folder may be one that only others may write to."""


def weights_hash(entry: Entry, folder: Path) -> str:
    """The sha256 of a model's file, which is checked against what is known of it.

    The file is read only when it has changed since the last time. A file that a person put there by hand is recorded
    once its weights were loaded: a copy that is still going on must not count as the first one.

    Raises:
        UserError: (409) when it is not there, (422) when it is not the right one.
    """
    path = need_weights(entry, folder)
    stat, record = path.stat(), read_json(_record_path(path)) or {}
    unchanged = record.get("size") == stat.st_size and record.get("mtime_ns") == stat.st_mtime_ns
    known = record.get("sha256")
    expected = record.get("unofficial") or file_of(entry).sha256 in (None, known)
    if unchanged and isinstance(known, str) and expected:
        return known
    found = _seen(path) or digest_of(path, file_of(entry))
    check_digest(entry, path, found)
    _SEEN[str(path)] = stat.st_size, stat.st_mtime_ns, found
    return found.sha256


def _seen(path: Path) -> Digest | None:
    """The hash of a file, None when it has changed since it was taken."""
    size, time, found = _SEEN.get(str(path), (-1, -1, None))
    stat = path.stat()
    return found if (stat.st_size, stat.st_mtime_ns) == (size, time) else None


def record_weights(entry: Entry, folder: Path) -> None:
    """Remember a file that was found in the folder and has just been loaded; from now on a change of it is refused."""
    path = path_of(entry, folder)
    found = _seen(path)
    if found is not None:
        with suppress(OSError, UserError):  # a folder that only others may write to
            write_record(entry, path, found, "found in the folder")
