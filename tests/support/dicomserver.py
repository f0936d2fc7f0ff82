"""A played DICOMweb server: keeps series and SEG objects in memory, may be away, and says what it was asked."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import requests
from pydicom.dataset import Dataset

from lib.dicom_seg import SegHeader
from server.dicomweb.server import DicomWebServer


class PlayedServer(DicomWebServer):
    """What ``DicomWebStudy`` needs of a server.

    Attributes:
        away: whether connections are refused.
        stored: every SEG that was sent, in order, those that were deleted since too.
        notes: about SEG objects that no longer count.
    """

    def __init__(self) -> None:
        self.away = False
        self.stored: list[Dataset] = []
        self.notes: list[Dataset] = []
        self._series: dict[str, list[Path]] = {}
        self._segs: dict[str, list[Dataset]] = {}

    @property
    def address(self) -> str:
        return "http://dicom.hospital.example:8042/dicom-web"

    # --- what a test does with it -------------------------------------------------------------------------------------

    def put_series(self, folder: Path) -> str:
        """Take a series; its UID."""
        files = sorted(folder.iterdir())
        uid = str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)
        self._series[uid] = files
        return uid

    def put_seg(self, seg: Dataset) -> None:
        """Take a SEG of another program, or of another server."""
        self._segs.setdefault(str(seg.SeriesInstanceUID), []).append(_sent(seg))

    def delete_seg(self, uid: str) -> None:
        """Delete one SEG."""
        for series, segs in list(self._segs.items()):
            self._segs[series] = [seg for seg in segs if seg.SOPInstanceUID != uid]
            if not self._segs[series]:
                del self._segs[series]

    def segs_there(self) -> list[Dataset]:
        """All SEG objects that it has."""
        return [seg for segs in self._segs.values() for seg in segs]

    # --- what it is asked ---------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self.away:
            raise requests.ConnectionError(f"HTTPConnectionPool(host='{self.address}'): Max retries exceeded")

    def search(self, conditions: Mapping[str, Any]) -> list[Dataset]:
        self._ask()
        if conditions.get("Modality") == "SEG":
            found = [_listed(segs[0], len(segs)) for segs in self._segs.values()]
            exam = conditions.get("StudyInstanceUID")
            return [each for each in found if exam in (None, each.StudyInstanceUID)]
        if conditions.get("Modality") == "KO":
            return [_listed(note, 1) for note in self.notes]
        return [_listed(pydicom.dcmread(f[0], stop_before_pixels=True), len(f)) for f in self._series.values()]

    def segs(self, dicom_study: str, series: str) -> list[SegHeader]:
        self._ask()
        if series not in self._segs:
            reply = requests.Response()
            reply.status_code = 404
            raise requests.HTTPError("404 Client Error", response=reply)
        return sorted((SegHeader.of(seg) for seg in self._segs[series]), key=lambda header: header.created)

    def save_series(self, dicom_study: str, series: str, folder: Path) -> int:
        with self._answering(f"Series {series} could not be fetched"):
            self._ask()
        if series in self._segs:
            for number, seg in enumerate(self._segs[series], start=1):
                seg.save_as(folder / f"{number:06d}.dcm", write_like_original=False)
            return len(self._segs[series])
        for file in self._series[series]:
            shutil.copy(file, folder)
        return len(self._series[series])

    def fetch_seg(self, dicom_study: str, series: str, uid: str) -> Dataset:
        with self._answering(f"SEG {uid} could not be fetched"):
            self._ask()
        return next(seg for seg in self._segs[series] if uid == seg.SOPInstanceUID)

    def store(self, seg: Dataset) -> None:
        with self._answering("The label could not be stored"):
            self._ask()
        self.stored.append(seg)
        self.put_seg(seg)

    def store_note(self, note: Dataset) -> None:
        with self._answering("The note that takes the label back could not be stored"):
            self._ask()
        self.notes.append(_sent(note))


class Exam(PlayedServer):
    """A played server that also keeps RTSTRUCT objects.

    Attributes:
        broken: series that it cannot give.
        given: series of objects that it has given, in order.
        conditions: of all searches, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.structure_sets: list[Dataset] = []
        self.broken: set[str] = set()
        self.given: list[str] = []
        self.conditions: list[Mapping[str, Any]] = []

    def search(self, conditions: Mapping[str, Any]) -> list[Dataset]:
        self.conditions.append(conditions)
        if conditions.get("Modality") == "RTSTRUCT":
            self._ask()
            return [each for each in self.structure_sets if each.StudyInstanceUID == conditions["StudyInstanceUID"]]
        return super().search(conditions)

    def save_series(self, dicom_study: str, series: str, folder: Path) -> int:
        with self._answering(f"Series {series} could not be fetched"):
            if series in self.broken:
                (folder / "000001.dcm").write_bytes(b"the first of two")
                raise requests.ConnectionError("Connection broken: IncompleteRead")
        if series not in self._series:
            self.given.append(series)
        for each in self.structure_sets:
            if each.SeriesInstanceUID == series:
                each.save_as(folder / "000001.dcm", write_like_original=False)
                return 1
        return super().save_series(dicom_study, series, folder)


def _sent(seg: Dataset) -> Dataset:
    """What arrives of a SEG at the other end."""
    file = BytesIO()
    pydicom.dcmwrite(file, seg, write_like_original=False)
    file.seek(0)
    return pydicom.dcmread(file)


def _listed(of: Dataset, count: int) -> Dataset:
    keys = ("SeriesInstanceUID", "StudyInstanceUID", "Modality", "PatientID", "StudyDate", "StudyTime")
    listed = Dataset()
    for key in keys:
        setattr(listed, key, of.get(key, ""))
    listed.NumberOfSeriesRelatedInstances = count
    return listed
