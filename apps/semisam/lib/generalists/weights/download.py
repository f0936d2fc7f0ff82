"""One large file over HTTP, resumable.

Half a download is kept as ``<file>.part`` with notes beside it: the address, the size, and the validator (ETag or date,
RFC 9110) that tells whether the file on the server is still the same.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import requests

from lib.core.errors import UserError
from lib.core.json_files import read_json, write_json

Progress = Callable[[int, "int | None"], None]
"""Told how many bytes are there, and of how many when that is known."""

Get = Callable[..., requests.Response]
"""``requests.get``, or what takes its place."""

_PIECE = 2**16
"""Bytes taken at a time; a cut loses no more than these."""
_SECONDS = (20, 60)
"""How long to wait for a connection, and for the next bytes."""
_MOST = 2**34
"""Bytes after which a server that names no size is not listened to any more."""


def forget(part: Path) -> None:
    """Remove half a download and its notes."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def download(
    url: str,
    part: Path,
    *,
    size: int | None = None,
    pinned: bool = False,
    progress: Progress | None = None,
    get: Get = requests.get,
) -> None:
    """Download into ``part``, going on where an earlier download of the same address ended.

    Args:
        url: http or https.
        part: the file to write; whole when this returns.
        size: expected bytes, None when unknown.
        pinned: the caller knows the file's hash, so going on is safe even if the server does not say whether its file
            has changed.
        progress: told of what has come.
        get: asks the server; for another way there than the usual one.

    Raises:
        UserError: (502) with a reason; what came is kept in ``part`` if it is of use. (507) when the disk is full.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url} is no http or https address.")
    notes = read_json(_notes(part)) or {}
    have = part.stat().st_size if part.is_file() else 0
    validator, total = notes.get("validator"), notes.get("total")
    if not have or notes.get("url") != url or not (validator or pinned) or (isinstance(total, int) and have > total):
        forget(part)
        have, validator, total = 0, None, None
    if have and have == total:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "semisam"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if isinstance(validator, str):
            headers["If-Range"] = validator
    try:
        with get(url, headers=headers, stream=True, timeout=_SECONDS) as reply:
            # 416: the server's file has shrunk, so it is another one.
            again = (have and reply.status_code == 416) or not _receive(reply, url, part, have, size, progress)
    except requests.RequestException as error:
        raise _cut(part, reason_of(error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"No space left in {part.parent}. Free some there, then run the same command again to go on.",
                status=507,
            ) from error
        raise UserError(f"Nothing can be written into {part.parent} ({error.strerror}).") from error
    if again:
        forget(part)
        download(url, part, size=size, pinned=pinned, progress=progress, get=get)


def _receive(
    reply: requests.Response, url: str, part: Path, have: int, size: int | None, progress: Progress | None
) -> bool:
    """Write an answer to ``part``; False when it does not continue what is there, so that all has to start anew."""
    _check_reply(reply, url)
    if reply.status_code == 206:
        start, total = _range(reply.headers.get("Content-Range", ""))
        if start != have:
            if not have:
                raise UserError(f"{url} answers with a piece of the file that was not asked for.", status=502)
            return False
    else:
        start, total = 0, _number(reply.headers.get("Content-Length"))
    if size is not None and total is not None and total != size:
        raise UserError(
            f"{url} has another file: {total} bytes, expected {size}. Nothing was taken. Name a mirror with --url.",
            status=502,
        )
    total = size if total is None else total
    if total is not None:
        _check_room(part.parent, total - start)
    if not start:
        part.unlink(missing_ok=True)
    write_json(_notes(part), {"url": url, "validator": _validator(reply), "total": total})
    done = _append(reply, url, part, start, total, progress)
    if total is not None and done < total:
        raise _cut(part, "the connection was closed")
    return True


def _check_reply(reply: requests.Response, url: str) -> None:
    """Raise UserError (502) unless an answer is a file's bytes as they are."""
    if reply.status_code not in (200, 206):
        raise UserError(_refusal(reply.status_code, url), status=502)
    kind = reply.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise UserError(_web_page(url), status=502)
    if reply.headers.get("Content-Encoding", "identity") not in ("identity", ""):
        raise UserError(f"{url} sends the file compressed, which cannot be resumed or checked.", status=502)


def _check_room(folder: Path, needed: int) -> None:
    """Raise UserError (507) unless so many bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"The download needs {needed / 2**20:.0f} MiB, but only {free / 2**20:.0f} MiB are free in "
            f"{folder}. Free some there, or name another folder with --folder.",
            status=507,
        )


def _append(
    reply: requests.Response, url: str, part: Path, start: int, total: int | None, progress: Progress | None
) -> int:
    """Add an answer's bytes to ``part``, which has ``start`` ones; how many there are then."""
    done = start
    with open(part, "ab") as file:
        for piece in reply.iter_content(_PIECE):
            if not done and piece.lstrip()[:1] == b"<":
                file.close()
                forget(part)
                raise UserError(_web_page(url), status=502)
            file.write(piece)
            done += len(piece)
            if done > (_MOST if total is None else total):
                file.close()
                forget(part)
                raise UserError(f"{url} sends more than it should ({total or _MOST} bytes).", status=502)
            if progress:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    return done


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _range(text: str) -> tuple[int | None, int | None]:
    """First byte and size of the whole from a Content-Range header."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    return (int(match[1]), _number(match[2])) if match else (None, None)


def _validator(reply: requests.Response) -> str | None:
    """A strong ETag, else the date of change; a weak ETag does not vouch for bytes."""
    tag = reply.headers.get("ETag", "")
    return tag if tag.startswith('"') else reply.headers.get("Last-Modified")


def _cut(part: Path, reason: str) -> UserError:
    kept = part.stat().st_size if part.is_file() else 0
    if not kept:
        return UserError(f"The download failed ({reason}).", status=502)
    notes = read_json(_notes(part)) or {}
    total = notes.get("total")
    whole = f" of {total / 2**20:.1f}" if isinstance(total, int) else ""
    return UserError(
        f"The download was cut ({reason}) after {kept / 2**20:.1f}{whole} MiB. What came is kept: run the same command "
        "again to go on from there.",
        status=502,
    )


def reason_of(error: requests.RequestException) -> str:
    """Why a server could not be asked, in a few words."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate is not trusted; REQUESTS_CA_BUNDLE may name your own authority's file"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was closed"
    if isinstance(error, requests.ConnectionError):
        return "there is no connection"
    return type(error).__name__


def _web_page(url: str) -> str:
    return (
        f"{url} answers with a web page in place of the file: it may ask for a log-in or a click, or a proxy may be in "
        "the way. Download the file with a browser, then import it (weights import NAME FILE)."
    )


def _refusal(status: int, url: str) -> str:
    if status in (401, 403, 407):
        advice = "It wants a log-in: download the file with a browser, then import it (weights import NAME FILE)."
    elif status in (404, 410):
        advice = "The file is not there: name a mirror with --url, or import a copy (weights import NAME FILE)."
    else:
        advice = "Try again later; what came so far is kept."
    return f"{url} answers with the error {status}. {advice}"
