"""RTSTRUCT and SEG objects that lie beside the scans on a DICOM server."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from lib.core.errors import UserError
from lib.core.files import space_errors
from lib.dicom_seg.parts import text_in
from server.dicomweb.datastore import DicomWebStudy
from server.dicomweb.labels import pseudo_series
from server.dicomweb.lists import instances_of
from server.errors import reason_of
from server.store.study import Study

from .import_notes import ImportNotes

logger = logging.getLogger("semisam.import")

_UID = re.compile(r"[0-9][0-9.]{0,63}")
KINDS = ("RTSTRUCT", "SEG")


@dataclass
class Fetched:
    """What was fetched.

    Args:
        folders: where to look for it.
        refused: why other series could not be fetched, by their UIDs.
        keys: under which the series that were fetched are noted, by their UIDs, see ``ImportNotes``.
        known: how many series were left out because they are noted.
    """

    folders: list[Path] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    known: int = 0


@contextmanager
def fetched_objects(study: Study, *, wanted: bool, notes: ImportNotes | None = None) -> Iterator[Fetched]:
    """The objects of the exams that the study's scans belong to, in a folder for each series; gone afterwards.

    The app's own pseudo-labels are no such objects, and SEG objects that a reader has taken back neither.

    Args:
        study: the study.
        wanted: False gives none.
        notes: what is noted there, and exams whose scans all have a final label, need not be fetched.

    Raises:
        UserError: when the study lies on no DICOM server; (502) when that does not say what it has; (507) when there is
            no space left.
    """
    if not wanted:
        yield Fetched()
        return
    store = study.datastore
    if not isinstance(store, DicomWebStudy):
        raise UserError("--from-server is for a study on a DICOM server. Say where the labels are: --from PATH.")
    with tempfile.TemporaryDirectory(prefix="import-") as name:
        fetched = Fetched([Path(name)])
        with space_errors(Path(name).parent):
            _fetch_all(store, fetched, notes)
        logger.info("%d series of RTSTRUCT and SEG fetched", len(fetched.keys))
        yield fetched


def _fetch_all(store: DicomWebStudy, fetched: Fetched, notes: ImportNotes | None) -> None:
    """Fetch the series of objects that are not known yet."""
    scans = store.list_images()
    passed = {pseudo_series(uid) for uid in scans}
    exams: dict[str, list[str]] = {}
    for uid in scans:
        exams.setdefault(str(store.get_image_info(uid)["StudyInstanceUID"]), []).append(uid)
    asked = [exam for exam, uids in exams.items() if notes is None or not notes.all_final(uids)]
    for each in _listed(store, asked):
        series = text_in(each, "SeriesInstanceUID")
        if series in passed:
            continue
        passed.add(series)
        key = f"{series} {instances_of(each)}"
        if notes is not None and notes.passes(key):
            fetched.known += 1
            continue
        try:
            _fetch(store, text_in(each, "StudyInstanceUID"), series, fetched.folders[0])
            fetched.keys[series] = key
        except UserError as error:
            fetched.refused[series] = str(error)


def _fetch(store: DicomWebStudy, exam: str, series: str, place: Path) -> None:
    """Fetch the objects of a series that count, into a new folder below ``place``; half a series is none.

    Raises:
        UserError: (422) when the series is not named by a UID; (502) when the server does not give them.
    """
    if not _UID.fullmatch(series):  # it becomes part of a path
        raise UserError(f"{series[:80]!r} is no UID of a series.", status=422)
    folder = place / series
    folder.mkdir()
    try:
        store.server.save_series(exam, series, folder)
    except UserError:
        shutil.rmtree(folder)
        raise
    _leave_out_rejected(store, folder)


def _leave_out_rejected(store: DicomWebStudy, folder: Path) -> None:
    """Delete the files of SEG objects that a reader has taken back: to the server they are there as before."""
    for file in sorted(folder.iterdir()):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=["SOPInstanceUID"])
            uid = text_in(header, "SOPInstanceUID")
        except Exception:
            # pydicom raises many kinds of errors for damaged files; whoever reads the labels says so.
            continue
        if store.rejects(uid):
            logger.info("SEG %s is left out: a reader has taken it back", uid)
            file.unlink()


def _listed(store: DicomWebStudy, exams: list[str]) -> Iterator[Dataset]:
    """Series of objects in these exams."""
    for exam in exams:
        for kind in KINDS:
            try:
                found = store.server.search({"StudyInstanceUID": exam, "Modality": kind})
            except Exception as error:  # the client raises many kinds: network, HTTP status, JSON
                raise UserError(
                    f"The DICOM server {reason_of(error)}: its {kind} objects could not be listed. Try again later.",
                    status=502,
                ) from error
            yield from (each for each in found if text_in(each, "Modality") == kind)
