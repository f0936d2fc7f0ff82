"""RTSTRUCT and SEG objects that lie beside the scans on a DICOM server."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from lib.core.errors import UserError
from lib.dicom_seg.parts import text_in
from server.dicomweb.datastore import DicomWebStudy
from server.dicomweb.labels import pseudo_series
from server.errors import reason_of
from server.store.study import Study

logger = logging.getLogger("semisam.import")

KINDS = ("RTSTRUCT", "SEG")


@contextmanager
def fetched_objects(study: Study, *, wanted: bool) -> Iterator[list[Path]]:
    """Folders with the objects of the exams that the study's scans belong to, one for each series; gone afterwards.

    The app's own pseudo-labels are no such objects, and SEG objects that a reader has taken back neither.

    Args:
        study: the study.
        wanted: False gives none.

    Raises:
        UserError: when the study lies on no DICOM server; (502) when that does not answer.
    """
    if not wanted:
        yield []
        return
    store = study.datastore
    if not isinstance(store, DicomWebStudy):
        raise UserError("--from-server is for a study on a DICOM server. Say where the labels are: --from PATH.")
    scans = store.list_images()
    own = {pseudo_series(uid) for uid in scans}
    exams = dict.fromkeys(str(store.get_image_info(uid)["StudyInstanceUID"]) for uid in scans)
    with tempfile.TemporaryDirectory(prefix="import-") as name:
        folders = []
        for each in _listed(store, list(exams)):
            series = text_in(each, "SeriesInstanceUID")
            if series not in own:
                folders.append(Path(name) / series)
                folders[-1].mkdir()
                store.server.save_series(text_in(each, "StudyInstanceUID"), series, folders[-1])
                _leave_out_rejected(store, folders[-1])
        logger.info("%d series of RTSTRUCT and SEG fetched", len(folders))
        yield [Path(name)] if folders else []


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
