"""Bringing a file of weights into the folder: imported, fetched, or verified anew. Checked before it gets its name."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lib.core.errors import UserError
from lib.generalists.entries import Entry

from .download import Progress, download, forget
from .files import file_of, how_to_get, need_weights, path_of
from .hashes import Digest, check_digest, digest_of, is_official, source_of, weights_hash, write_record
from .state_dicts import check_content


def _settle(
    entry: Entry, temporary: Path, path: Path, source: str, *, unofficial: bool, progress: Progress | None = None
) -> None:
    """Check a file and give it its name."""
    if not unofficial:
        _check_size(entry, temporary.stat().st_size)
    found = digest_of(temporary, file_of(entry), progress)
    if not unofficial:
        check_digest(entry, path, found)
    check_content(entry, temporary)
    if not is_official(entry, found):
        _check_sums(temporary, entry.name)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    write_record(entry, path, found, source)


def _check_sums(path: Path, name: str) -> None:
    """A zip archive has a checksum for each part: better than nothing where no hash of the file is known."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise UserError(f"The file is damaged: {bad} in it is. Get the official file of {name} again.", status=422)


def import_weights(
    entry: Entry,
    source: Path,
    folder: Path,
    *,
    origin: str | None = None,
    unofficial: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Copy a file that was brought here into the folder of weights.

    Args:
        entry: the model.
        source: the file.
        folder: of the weights.
        origin: where the file comes from, for the record beside it; by default the path of ``source``.
        unofficial: accept another hash than the published or the first one; the weights still have to fit.
        progress: told of the bytes read.

    Raises:
        UserError: (404) when there is no such file, (422) when it is not the right one, (507) when it does not fit on
            the disk. The folder is then as it was.
    """
    weights, path = file_of(entry), path_of(entry, folder)
    if not source.is_file():
        raise UserError(f"There is no file {source}.", status=404)
    size, origin = source.stat().st_size, origin or str(source)
    with only_one(folder):
        if path.is_file() and path.samefile(source):
            found = digest_of(path, weights, progress)
            if not unofficial:
                check_digest(entry, path, found)
            check_content(entry, path)
            write_record(entry, path, found, origin)
            return path
        if not unofficial:
            _check_size(entry, size)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise UserError(
                f"{source.name} needs {size / 2**20:.0f} MiB, but only {free / 2**20:.0f} MiB are free in {folder}. "
                "Free some space there, or name another folder with --folder.",
                status=507,
            )
        temporary = folder / f".import-{os.getpid()}-{weights.name}"
        try:
            shutil.copyfile(source, temporary)
            _settle(entry, temporary, path, origin, unofficial=unofficial, progress=progress)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def fetch_weights(
    entry: Entry,
    folder: Path,
    *,
    url: str | None = None,
    unofficial: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Download the file of a model into the folder of weights; a download that was cut goes on where it ended.

    Args:
        entry: the model.
        folder: of the weights.
        url: a mirror.
        unofficial: accept another hash than the published or the first one; the weights still have to fit.
        progress: told of the bytes that are there and, when known, of all.
        say: told what happens.

    Raises:
        UserError: (502) when the download fails, and whatever came is kept for the next try; (422) when the file is
            not the right one, and it is thrown away; (409) when it has to be fetched by hand, or another fetch runs;
            (507) when it does not fit on the disk.
    """
    weights, path = file_of(entry), path_of(entry, folder)
    address = url or weights.url
    if address is None:
        raise UserError(f"There is no direct download of {entry.name}. {how_to_get(entry, folder)}", status=409)
    with only_one(folder):
        if not unofficial and is_there(entry, folder, say):
            return path
        part = path.with_name(path.name + ".part")
        pinned = not unofficial and bool(weights.sha256 or weights.md5)
        try:
            download(address, part, size=None if unofficial else weights.size, pinned=pinned, progress=progress)
        except UserError as error:
            if error.status == 502 and weights.url is not None and not part.exists():
                # Nothing came at all: there may be no connection to the outside.
                raise UserError(f"{error} {how_to_get(entry, folder)}", status=502) from error
            raise
        say("Checking the file ...")
        try:
            _settle(entry, part, path, address, unofficial=unofficial)
        except UserError as error:
            forget(part)
            raise UserError(f"What came from {address} is thrown away. {error}", status=error.status) from error
        forget(part)
    return path


def verify_weights(entry: Entry, folder: Path, progress: Progress | None = None) -> Digest:
    """Read a model's file anew: its hashes, and whether its weights fit the architecture.

    Raises:
        UserError: (409) when it is not there, (422) when it is not the right one.
    """
    path = need_weights(entry, folder)
    found = digest_of(path, file_of(entry), progress)
    check_digest(entry, path, found)
    check_content(entry, path)
    with suppress(OSError, UserError):  # a folder that only others may write to
        write_record(entry, path, found, source_of(path))
    return found


def is_there(entry: Entry, folder: Path, say: Callable[[str], None]) -> bool:
    """Whether a model's file is in the folder and can be used; what is there is told by ``say``."""
    path = path_of(entry, folder)
    if not path.is_file():
        return False
    try:
        weights_hash(entry, folder)
    except UserError as error:
        say(f"{path} is there, but cannot be used. {error}\nDownloading it again ...")
        return False
    say(f"{path} is there already.")
    return True


@contextmanager
def only_one(folder: Path, name: str = ".lock", work: str = "fetch or import") -> Iterator[None]:
    """Make the folder and lock it: two fetches must not write to one file.

    Args:
        folder: of the weights.
        name: of the lock's file.
        work: what it keeps others from, in words.

    Raises:
        UserError: (409) while another one holds the lock; (400) when nothing can be written into the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"Another {work} into {folder} is running. Wait for it.", status=409) from error
    except OSError as error:
        raise UserError(f"Nothing can be written into {folder} ({error.strerror}).") from error
    try:
        yield
    finally:
        lock.release()


def _check_size(entry: Entry, size: int) -> None:
    weights = file_of(entry)
    if weights.size is not None and size != weights.size:
        raise UserError(
            f"This is not the official file of {entry.name}, or it is cut short: it has {size} bytes, expected "
            f"{weights.size}. Get {weights.name} again from {weights.page}. Weights of your own can be imported with "
            "--unofficial.",
            status=422,
        )
