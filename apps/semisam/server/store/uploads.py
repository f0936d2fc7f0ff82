"""Scans that come as one archive: a DICOM series, a header with its data, a file a channel, or one packed file."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from lib.core.errors import UserError
from lib.formats.channels import channels, further_files, is_first
from lib.formats.volumes import read_volume, write_scan

from .detached import HEADER, data_files, join
from .file_names import split
from .scan_content import is_dicom_folder

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_NAMES = "NAME_0000.nii.gz, NAME_0001.nii.gz and so on"
_MOST_FILES = 20_000
_LEAST_BYTES = 2**28
_TIMES = 30
"""How many times its own size an archive may hold, if that is more than a few hundred MiB."""
_UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


@contextmanager
def unpacked_scan(upload: Path) -> Iterator[Path]:
    """The scan in an upload: the upload itself, or the one file or DICOM folder that an archive holds.

    Raises:
        UserError: (400) when the archive holds none or several, or a header came without its data; (422) when channels
            do not belong together.
    """
    if split(upload.name)[1].lower() == HEADER and data_files(upload):
        raise UserError(
            f"A {HEADER} file is only the header of a scan: its data lie in another file. Pack both into one zip "
            "archive and upload that, or save the scan as .mha or .nii.gz."
        )
    if not upload.name.lower().endswith(ARCHIVES):
        yield upload
        return
    with tempfile.TemporaryDirectory(prefix="upload-") as name:
        folder = Path(name)
        _unpack(upload, folder / "upload")
        scan = _the_scan(folder / "upload")
        yield scan


def _the_scan(folder: Path) -> Path:
    """The one scan among unpacked files."""
    files = sorted(folder.iterdir())
    headers = [file for file in files if file.name.lower().endswith(HEADER)]
    if len(headers) == 1 and {*data_files(headers[0]), headers[0]} >= set(files):
        joined = folder.parent / f"{headers[0].stem}.mha"
        join(headers[0], joined)
        return joined
    scans = [file for file in files if split(file.name)[1]]
    if len(files) == len(scans) == 1 and not headers:
        return scans[0]
    first = next((file for file in files if is_first(file.name)), None)
    if first is not None and {first, *further_files(first)} == set(files):
        # One file, so that the channels of a scan come and go together.
        joined = folder.parent / f"{split(first.name)[0]}.nii.gz"
        write_scan(joined, read_volume(first))
        return joined
    if files and is_dicom_folder(folder):
        return folder
    every = f" Of a scan with several channels ({', '.join(channels())}), pack the files of all channels: {_NAMES}."
    raise UserError(
        "The archive must hold one scan: the files of one DICOM series, a .mhd header with its data, or one file in a "
        f"format that this server reads. Upload each scan in an archive of its own.{every if channels() else ''}"
    )


def few_channels() -> str:
    """What is wrong with an upload that has fewer channels than the scans of this study, and what to do."""
    return (
        f"it has too few channels, scans of this study have {len(channels())} ({', '.join(channels())}). Send one file "
        f"with four axes, or one zip archive with a file for each channel ({_NAMES}); or copy these files into the "
        "study's folder."
    )


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the plain files of an archive into one folder, whatever folders they lie in there."""
    folder.mkdir()
    left = max(_LEAST_BYTES, _TIMES * archive.stat().st_size)
    try:
        for number, (name, content) in enumerate(_entries(archive)):
            target = folder / (name if not (folder / name).exists() else f"{number:05d}-{name}")
            with target.open("wb") as out:
                while block := content.read(2**20):
                    left -= len(block)
                    if left < 0 or number >= _MOST_FILES:
                        raise UserError(
                            f"The archive holds far more than its own size, or more than {_MOST_FILES} files. Upload "
                            "the scan as one file.",
                            status=413,
                        )
                    out.write(block)
    except _UNREADABLE as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError("The archive is damaged or encrypted. Pack it again as zip or tar.") from error


def _entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name without folders, and content, of each plain file; links and what programs leave beside files are passed."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir() and _is_plain(info.filename):
                    with packed.open(info) as content:
                        yield PurePosixPath(info.filename).name, content
        return
    with tarfile.open(archive) as packed_tar:
        for member in packed_tar:
            stream = packed_tar.extractfile(member) if member.isreg() and _is_plain(member.name) else None
            if stream is not None:
                yield PurePosixPath(member.name).name, stream


def _is_plain(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and "__MACOSX" not in parts and not parts[-1].startswith(".") and parts[-1].upper() != "DICOMDIR"
