"""What a DICOMweb server's lists of series mean: which are scans, and whose label a SEG is.

The SEG objects that this app makes itself (``original``) lie in one series for each scan, whose UID follows from the
scan's. Every other SEG that refers to a scan is a person's label (``final``) if the study knows the names of all its
segments: other programs keep SEG objects of other things there, and other studies of this app their own. The newest
counts. One that was rejected does not: the server has a note about it, see ``lib.dicom_seg.rejection``.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests
from monailabel.datastore.local import DataModel, ImageLabelModel
from pydicom.dataset import Dataset

from lib.core.label_names import as_label_info, knows_all
from lib.core.labels import LabelSchema
from lib.dicom_seg import SegHeader, rejection_series
from server.store.folder_store import DICOM, FINAL, ORIGINAL

from .label_facts import DicomLabelFacts, StoredSeg
from .labels import pseudo_series
from .server import DicomWebServer

logger = logging.getLogger("semisam.dicomweb")

NO_SCANS = frozenset(
    [
        *["ANN", "AU", "DOC", "ECG", "EPS", "FID", "HD", "KO", "OT", "PLAN", "PR", "REG", "RTDOSE", "RTPLAN"],
        *["RTRECORD", "RTSTRUCT", "RWV", "SEG", "SMR", "SR"],
    ]
)
"""Modalities of series that are no scans, unless a search asks for one of them by name."""
VOLUMES = frozenset(["CT", "MR", "PT", "NM"])
"""Modalities whose single images are slices or whole volumes, never pictures."""

_UID = re.compile(r"[0-9.]{1,64}")
_SETTLE_SECONDS = 30
"""A server may list a new SEG late: until then it is not missed."""


def scans_in(found: Sequence[Dataset], address: str, asked: object) -> dict[str, DataModel]:
    """The scans among listed series, by SeriesInstanceUID.

    Args:
        found: what the server says about each series.
        address: base of its services.
        asked: the modality that was searched for, if one was.
    """
    scans = {}
    for each in found:
        uid, modality = _text(each, "SeriesInstanceUID"), _text(each, "Modality")
        if (modality in NO_SCANS and modality != asked) or not _are_uids(uid, _text(each, "StudyInstanceUID")):
            continue
        count = instances_of(each)
        extension = DICOM if modality not in VOLUMES and count == 1 else ".nii.gz"
        keys = ("StudyDate", "StudyTime", "Modality", "PatientID", "StudyInstanceUID", "SeriesDescription")
        info: dict[str, Any] = {key: _text(each, key) or "UNK" for key in keys}
        # Not the server's own RetrieveURL: behind a proxy or another port it is often wrong.
        url = f"{address.rstrip('/')}/studies/{info['StudyInstanceUID']}/series/{uid}"
        info.update(SeriesInstanceUID=uid, RetrieveURL=url, instances=count, name=f"{uid}{extension}")
        scans[uid] = DataModel(info=info, ext=extension)
    return scans


def _are_uids(*texts: str) -> bool:
    """Whether all are DICOM UIDs. A server takes others as well, and they would become parts of paths here."""
    return all(_UID.fullmatch(text) for text in texts)


def instances_of(series: Dataset) -> int:
    """How many instances a series has, 0 when the server does not say."""
    return int(series.get("NumberOfSeriesRelatedInstances") or 0)


@dataclass(frozen=True)
class Seg:
    """A SEG on the server.

    Args:
        dicom_study: UID of the DICOM study (one exam) that it belongs to.
        series: UID of its series.
        header: what it says about itself.
        arrived: whether it was not there at an earlier look; False at the first one.
    """

    dicom_study: str
    series: str
    header: SegHeader
    arrived: bool = False

    @property
    def tag(self) -> str:
        """Whose label it is."""
        return ORIGINAL if self.series == pseudo_series(self.header.scan) else FINAL

    def facts(self, *, listed: bool = False) -> DicomLabelFacts:
        """What is known of it as a label.

        Args:
            listed: whether the server has listed it.
        """
        said: dict[str, Any] = {"annotated": self.header.annotated} if self.header.annotated else {}
        said["label_info"] = as_label_info(self.header.names)
        seg = StoredSeg(self.dicom_study, self.series, self.header.uid, self.header.created, listed)
        return DicomLabelFacts(seg, int(time.time()), said=said)


@dataclass(frozen=True)
class Listed:
    """The lists of a server at one moment.

    Args:
        began: when they were asked for, seconds since the epoch.
        scans: by SeriesInstanceUID.
        segs: the newest of each series, those left out that are known well enough.
        seg_series: UIDs of all series of SEG objects.
    """

    began: float
    scans: Mapping[str, DataModel]
    segs: Sequence[Seg]
    seg_series: frozenset[str]

    def newest(self) -> dict[tuple[str, str], Seg]:
        """The newest label of each scan and tag, as far as it was looked into."""
        found = {}
        for seg in sorted(self.segs, key=lambda one: (one.arrived, one.header.created, one.header.uid)):
            found[seg.header.scan, seg.tag] = seg
        return found

    def knows(self, label: DicomLabelFacts) -> bool:
        """Whether the server has had time enough to list a label: if it does not, the label was deleted there."""
        seg = label.seg
        since = label.saved or 0
        if seg is not None:
            since = since if seg.sent is None else seg.sent
        return bool(seg is not None and seg.listed) or since < self.began - _SETTLE_SECONDS

    def misses(self, label: DicomLabelFacts) -> bool:
        """Whether a person's label was deleted on the server, where there may be an older one of the same scan."""
        uid, series = (label.seg.uid, label.seg.series) if label.seg is not None else (None, None)
        looked_into = {seg.series for seg in self.segs}
        gone = series not in self.seg_series or series in looked_into  # else it could not be looked into
        return bool(gone and uid not in {seg.header.uid for seg in self.segs} and self.knows(label))


class Lists:
    """Asks a server for its lists; looks into each SEG once.

    Args:
        server: the server.
        search: further conditions for scans, as DICOM keywords.
        labels: the study's structures if they are set; else any names will do.

    Attributes:
        labels: see above.
    """

    def __init__(self, server: DicomWebServer, search: Mapping[str, Any], labels: LabelSchema | None = None) -> None:
        self._server = server
        self._search = dict(search)
        self.labels = labels
        self._segs: dict[str, tuple[int, SegHeader | None]] = {}
        self._seen: set[str] | None = None
        self._counts: dict[str, int] = {}
        self._notes: frozenset[str] = frozenset()
        self._rejected: set[str] = set()

    def reject(self, uid: str) -> None:
        """Leave a SEG out from now on: the server has been given the note about it, and may list it late."""
        self._rejected.add(uid)

    def rejects(self, uid: str) -> bool:
        """Whether a SEG no longer counts, by its SOP instance UID."""
        return uid in self._rejected or rejection_series(uid) in self._notes

    def ask(self, objects: Mapping[str, ImageLabelModel]) -> Listed:
        """The lists as they are now; raises many kinds of errors: network, HTTP status, JSON.

        Args:
            objects: scans and labels that are known already.
        """
        began = time.time()
        found = self._server.search(self._search)
        scans = scans_in(found, self._server.address, self._search.get("Modality"))
        labels = [(uid, dict(item.labels)) for uid, item in dict(objects).items()]  # they may change meanwhile
        own = {pseudo_series(uid) for uid, known in labels if ORIGINAL in known}
        finals = [(uid, DicomLabelFacts.of(known[FINAL]).seg) for uid, known in labels if FINAL in known]
        known = {seg.series: SegHeader(seg.uid, uid, (), seg.created) for uid, seg in finals if seg is not None}
        self._look_for_notes()
        segs, counts = [], {}
        for each in self._server.search({"Modality": "SEG"}):
            dicom_study, uid = _text(each, "StudyInstanceUID"), _text(each, "SeriesInstanceUID")
            count = instances_of(each)
            if not _are_uids(dicom_study, uid):
                continue
            counts[uid] = count
            if uid in own and count >= self._counts.get(uid, 0):
                continue  # own labels are known, unless one was deleted there
            header = known.get(uid) if count == 1 else None
            header = header or self._looked_into(dicom_study, uid, count)
            if header is not None and not self.rejects(header.uid):
                arrived = self._seen is not None and header.uid not in self._seen
                segs.append(Seg(dicom_study, uid, header, arrived))
        self._counts = counts
        self._seen = {seg.header.uid for seg in segs} | (self._seen or set())
        self._segs = {uid: entry for uid, entry in self._segs.items() if uid in counts}
        return Listed(began, scans, segs, frozenset(counts))

    def _look_for_notes(self) -> None:
        """Ask which notes there are about SEG objects that no longer count; without an answer those of before hold."""
        try:
            found = self._server.search({"Modality": "KO"})
        except (requests.ConnectionError, requests.Timeout):
            raise
        except Exception as error:
            logger.warning("Notes about SEG objects cannot be asked for (%s: %s)", type(error).__name__, error)
            return
        self._notes = frozenset(_text(each, "SeriesInstanceUID") for each in found)
        self._rejected = {uid for uid in self._rejected if rejection_series(uid) not in self._notes}

    def _looked_into(self, dicom_study: str, series: str, count: int) -> SegHeader | None:
        before, header = self._segs.get(series, (-1, None))
        if before != count:
            try:
                found = self._server.segs(dicom_study, series)
            except (requests.ConnectionError, requests.Timeout):
                raise
            except requests.HTTPError as error:
                logger.warning("SEG series %s is looked into again later: %s", series, error)
                return header
            except Exception as error:
                # It may have been deleted meanwhile, and SEG objects come from many programs. None may stop the rest.
                logger.warning("SEG series %s cannot be looked into (%s: %s)", series, type(error).__name__, error)
                found = []
            header = next((one for one in reversed(found) if self._counts_as_label(one)), None)
            self._segs[series] = count, header
        return header

    def _counts_as_label(self, header: SegHeader) -> bool:
        if not header.scan or not header.names or not _are_uids(header.uid):
            return False
        if self.labels is None or knows_all(self.labels, header.names):
            return True
        logger.warning(
            "SEG %s of %s is not taken for a label: it has the segments %s, the study's structures are %s",
            *(header.uid, header.scan, ", ".join(name for name, _ in header.names), ", ".join(self.labels.names)),
        )
        return False


def is_newer(theirs: Seg, known: DicomLabelFacts) -> bool:
    """Whether a SEG of the server's list goes before the label that is known."""
    seg = known.seg
    if seg is None:
        return theirs.header.created > ""
    if theirs.header.uid == seg.uid:
        return False
    # Where clocks were found wrong before, only the order of arrival tells.
    return theirs.arrived if seg.clock_was_wrong else theirs.header.created > seg.created


def _text(dataset: Dataset, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else str(value).strip()
