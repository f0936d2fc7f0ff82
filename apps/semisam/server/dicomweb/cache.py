"""The folder in which the series of a DICOMweb server are kept once they were fetched."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.dicom_series import SeriesVolume, find_stack, keep_notes, notes_file, read_stack
from lib.formats.volumes import write_label
from lib.formats.voxel_types import exact_type
from server.store.folder_store import DICOM

from .server import DicomWebServer

logger = logging.getLogger("semisam.dicomweb")

_PART, _LEFT_SECONDS = ".fetch-", 86400
"""Folder of a download under way, and the age at which nobody is any longer at it."""
_SCAN = ".nii.gz"
_FAILED_SECONDS = 60.0
"""How soon something that is bad in itself is tried again."""
_SHARE = 10.0
"""A server that does not answer is asked again after this many times the seconds that the attempt took."""


class SeriesCache:
    """Series as folders of DICOM files, and beside them the one file that is the scan.

    Args:
        folder: the cache.
        server: where series come from.
    """

    def __init__(self, folder: Path, server: DicomWebServer) -> None:
        self._folder = folder
        self._server = server
        for left in folder.glob(f"{_PART}*"):
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        for scan in folder.glob(f"*{_SCAN}"):
            # Made before series were checked: it may be of a stack that was evened out.
            if not notes_file(scan).is_file():
                scan.unlink(missing_ok=True)

    def fetch(self, dicom_study: str, uid: str) -> Path:
        """Folder with the files of a series; half a download is never taken for one.

        Raises:
            UserError: (502) when the server does not give it, (422) when it is empty.
        """
        folder = self._folder / uid
        if folder.is_dir():
            return folder
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=self._folder))
        try:
            count = self._server.save_series(dicom_study, uid, part)
            if not count:
                raise UserError(f"Series {uid} is empty on the DICOMweb server.", status=422)
            try:
                os.replace(part, folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        logger.info("Series %s fetched, %d files", uid, count)
        return folder

    def put_scan(self, dicom_study: str, uid: str, path: Path) -> None:
        """Make the file of a scan: a DICOM file as it is, anything else as NIfTI.

        Raises:
            UserError: see ``fetch``; (422) when the series is neither one volume nor one 2D image.
        """
        series = self.fetch(dicom_study, uid)
        if path.name.endswith(DICOM):
            file = next(p for p in series.iterdir() if p.is_file())
            write_whole(path, lambda name: shutil.copyfile(file, name))
            return
        volume = _read(series, uid)
        keep_notes(path, volume.notes)
        write_label(path, volume.array, volume.affine, exact_type(volume.array, wide=True))

    def drop(self, uid: str) -> None:
        """Delete what was fetched of a series."""
        shutil.rmtree(self._folder / uid, ignore_errors=True)
        for extension in (_SCAN, DICOM):
            path = self._folder / f"{uid}{extension}"
            path.unlink(missing_ok=True)
            notes_file(path).unlink(missing_ok=True)


def _read(series: Path, uid: str) -> SeriesVolume:
    """The volume in the folder of a series.

    Raises:
        UserError: (422) when it is none; the text names no file, as those have names of the cache's own.
    """
    stack = find_stack(series, f"Series {uid}", copied=True)
    if stack is None:
        raise UserError(f"Series {uid} has changed on the server: it is one 2D image now. Try again.", status=422)
    if not stack.upright:
        # A viewer in a browser lays the slices one above the other, and would draw the answer beside what it shows.
        first, last = stack.slices[0].text, stack.slices[-1].text
        raise UserError(
            f"Series {uid} cannot be read as one volume: its slices lie sideways of each other, from {first} to "
            f"{last}, as with a tilted gantry, and a browser's viewer does not show that. Let the scanner correct the "
            "tilt, or put the files into a study folder: from there the series is resampled.",
            status=422,
        )
    return read_stack(stack)


class Failures:
    """What has just failed: bad scans and labels are asked for again and again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, UserError]] = {}

    @contextmanager
    def remembered(self, key: str) -> Iterator[None]:
        """Fail at once if the same has failed a moment ago."""
        until, known = self._known.get(key, (-math.inf, None))
        if known is not None and time.monotonic() < until:
            raise UserError(str(known), status=known.status)
        elapsed = stopwatch()
        try:
            yield
        except UserError as error:
            wait = retry_after(elapsed()) if error.status == 502 else _FAILED_SECONDS
            self._known[key] = time.monotonic() + wait, error
            raise
        self._known.pop(key, None)

    def forget(self, key: str) -> None:
        """Try it again the next time."""
        self._known.pop(key, None)


def retry_after(took: float) -> float:
    """Seconds until a server that has not answered is asked again: soon if it was quick to say so."""
    return min(_SHARE * took, _FAILED_SECONDS)


def stopwatch() -> Callable[[], float]:
    """Seconds since this call."""
    began = time.monotonic()
    return lambda: time.monotonic() - began
