"""Uploaded scans that a client works on for a while, kept so that no request leads out of their folder.

- Package: MONAI Label 0.8.5, ``monailabel/utils/sessions.py``, ``Sessions``; ``MONAILabelApp._load_sessions``.
- Wrong: it takes a session's id for a path, deletes the folder that it names when the scan in it is missing, unpacks
  archives wherever their entries lead to, and stops to delete old sessions at the first damaged one.
- Done: ``StudySessions`` checks before it calls MONAI Label's. The app makes it by overriding the private
  ``_load_sessions``: there is no public way.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/utils/sessions.py
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from monailabel.config import settings as server_settings
from monailabel.utils.sessions import SessionInfo, Sessions

from lib.core.errors import UserError
from lib.core.files import space_error
from lib.setup.settings import Settings
from server.errors import http_answers

logger = logging.getLogger("semisam.sessions")

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UNPACKED = 4
"""How many times the largest upload an archive may hold."""

_MOST_FILES = 20_000
_UPLOAD = "upload"
_HEADERS = (".mhd", ".nhdr")
_SCANS = (*_HEADERS, ".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".jpg", ".jpeg")
"""Endings of the files of which one is a whole scan, or its header."""
_DATA_FILE, _HEADER_BYTES = (
    re.compile(rb"^(?:ElementDataFile\s*=|data file:)(.*)$", re.MULTILINE | re.IGNORECASE),
    65536,
)


class OwnSessions:
    """For the app's class, before MONAI Label's: makes these sessions in the place of MONAI Label's.

    Attributes:
        settings: what the administrator chose.
    """

    settings: Settings

    def _load_sessions(self, load: bool = False) -> StudySessions | None:
        """Called by MONAI Label when the app starts.

        Args:
            load: whether sessions are switched on.
        """
        if not load:
            return None
        folder, expiry = server_settings.MONAI_LABEL_SESSION_PATH, server_settings.MONAI_LABEL_SESSION_EXPIRY
        return StudySessions(folder, expiry, self.settings.most_upload)


class StudySessions(Sessions):
    """MONAI Label's sessions behind checks.

    Args:
        store_path: their folder; empty for MONAI Label's default in the home folder.
        expiry: seconds without a request after which a session is deleted.
        most_bytes: largest upload.
    """

    def __init__(self, store_path: str, expiry: int, most_bytes: int) -> None:
        super().__init__(store_path, expiry)
        self._most = most_bytes * _UNPACKED

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> SessionInfo | None:
        """The session, or None when there is none of this id."""
        if not _ID.fullmatch(str(session_id)):
            return None
        try:
            return super().get_session(session_id, update_ts=update_ts, fetch_cache=fetch_cache)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("The session %s is damaged: %s", session_id, error)
            return None

    def remove_session(self, session_id: str) -> None:
        """Delete a session; other names are no sessions."""
        if _ID.fullmatch(str(session_id)):
            super().remove_session(session_id)

    def remove_expired(self) -> int:
        """Delete what nobody has asked for in time, and what has no usable note; returns how many."""
        store = Path(self.store_path)
        now, count = time.time(), 0
        for path in store.iterdir() if store.is_dir() else ():
            if not path.is_dir() or not _ID.fullmatch(path.name):
                continue
            info = self.get_session(path.name, update_ts=False, fetch_cache=False)
            last = info.last_access_ts + info.expiry if info else path.stat().st_mtime + self.expiry
            if last < now and path.is_dir():
                self.remove_session(path.name)
                count += 1
        return count

    @http_answers()
    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> Any:
        """Keep an upload; see the base class.

        Raises:
            UserError: when an archive cannot be unpacked, or several scans are given; (507) when the folder of uploads
                cannot be written.
        """
        self._check_store()
        if uncompress and not os.path.isdir(data_file):
            data_file = self._unpack(data_file)
        name, session = super().add_session(data_file, expiry, False, session_id)
        try:
            self._find_scan(name, session)
        except BaseException:
            self.remove_session(name)
            raise
        return name, session

    def _check_store(self) -> None:
        """A home that cannot be written is found out here, and not by the first file that is copied."""
        try:
            os.makedirs(self.store_path, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.store_path):
                pass
        except OSError as error:
            raise space_error(error, Path(self.store_path)) or UserError(
                f"Uploads cannot be kept in {self.store_path}: {error.strerror}. Ask the administrator to make this "
                "folder writable for the server, or to name another one in MONAI_LABEL_SESSION_PATH.",
                status=507,
            ) from error

    def _find_scan(self, name: str, session: SessionInfo) -> None:
        """Say which file of several is the scan: a header whose data lie beside it; of DICOM it is the whole folder."""
        folder = Path(session.image)
        if not folder.is_dir():
            return
        # It has a random name, which would stand in texts for the user.
        folder = folder.rename(folder.with_name(_UPLOAD))
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        scans = [file for file in files if file.name.lower().endswith(_SCANS)]
        if len(scans) > 1:
            named = ", ".join(file.name for file in scans[:3]) + (", ..." if len(scans) > 3 else "")
            raise UserError(f"The upload holds {len(scans)} scans ({named}). Upload one scan at once.")
        for header in scans:
            _check_data_file(header)
        session.image = str(scans[0] if scans else folder)
        self._write_meta_info(name, session)

    def _unpack(self, file: str) -> str:
        """Unpack a zip or tar archive into a new folder; plain files only, and none outside of it."""
        folder = Path(tempfile.mkdtemp())
        left, files = self._most, 0
        try:
            for name, size, content in _entries(file):
                files, left = files + 1, left - size
                if left < 0 or files > _MOST_FILES:
                    raise UserError(
                        f"The archive holds more than {self._most >> 20} MiB or {_MOST_FILES} files. Upload less at "
                        "once, or ask the administrator to raise --conf max_upload.",
                        status=413,
                    )
                target = Path(os.path.normpath(folder / name))
                if folder not in target.parents:
                    raise UserError(f"The archive's entry {name!r} leads out of its folder. Pack it without '..'.")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as out:
                    shutil.copyfileobj(content, out)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, _UNREADABLE):
                logger.info("An archive cannot be unpacked: %s: %s", type(error).__name__, error)
                raise UserError(
                    "The archive cannot be unpacked: it is damaged, encrypted, or holds a file and a folder of one "
                    "name. Pack it again as zip or tar."
                ) from error
            raise
        return str(folder)


_UNREADABLE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    *(NotADirectoryError, IsADirectoryError, FileExistsError),
)
"""What damaged, encrypted or contradictory archives raise."""


def _check_data_file(header: Path) -> None:
    """Refuse the header of a scan whose data lie elsewhere than beside it: nobody has uploaded them."""
    if not header.name.lower().endswith(_HEADERS):
        return
    with header.open("rb") as file:
        found = _DATA_FILE.findall(file.read(_HEADER_BYTES))
    for place in found:
        if b"/" in place or b"\\" in place:
            raise UserError(f"{header.name} names data in another folder. Put them beside it, and save it again.")


def _entries(file: str) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each plain file of an archive; links and devices are passed over."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as content:
                        yield info.filename, info.file_size, content
    elif tarfile.is_tarfile(file):
        with tarfile.open(file) as packed:
            for member in packed:
                stream = packed.extractfile(member) if member.isreg() else None
                if stream is not None:
                    yield member.name, member.size, stream
    else:
        raise UserError("This is no archive that can be unpacked. Upload a zip or tar file, or leave out 'uncompress'.")
