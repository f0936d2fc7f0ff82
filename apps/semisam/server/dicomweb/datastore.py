"""A DICOMweb server as a study: its series are the scans, its SEG objects the labels.

MONAI Label's own DICOMWebDatastore lists CT only, keeps lists for two hours, names segments by their position among
those present, never looks at a newer SEG of a scan, and takes half a download for a scan. This one is a StudyDatastore
whose folder is a cache: scans and labels come from the server when they are first asked for, and lists within seconds.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.formats.volumes import read_volume
from lib.setup.settings import Settings
from server.errors import http_answers
from server.store.folder_store import FINAL, ORIGINAL, plain_info
from server.upstream import dicomweb_settings

from .cache import Failures
from .copies import EXTENSION
from .label_facts import DicomLabelFacts, StoredSeg
from .labels import Source, meaning_of
from .listed_study import PATIENCE_SECONDS, ListedStudy
from .lists import Lists
from .segs import SegExchange
from .sending import content_of, is_away
from .server import DicomWebServer
from .unsent import Retry

logger = logging.getLogger("semisam.dicomweb")

LIST_SECONDS = 10
"""Age at which the lists of series are fetched anew."""
__all__ = ("PATIENCE_SECONDS", "DicomWebStudy", "open_dicomweb")

_DELETE_SECONDS = 5.0
"""How long a deletion waits for labels that are being sent."""


def open_dicomweb(address: str, settings: Settings) -> DicomWebStudy:
    """The study at a DICOMweb address, with MONAI Label's settings for DICOMweb from the environment.

    Args:
        address: base of the DICOMweb services.
        settings: what the administrator chose.

    Raises:
        UserError: when the server cannot be asked and nothing is known from before.
    """
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return DicomWebStudy(
        DicomWebServer.at(address),
        dicomweb_settings.cache_folder() / f"semisam-{digest}",
        search=dicomweb_settings.search_filter(),
        age=dicomweb_settings.list_seconds(LIST_SECONDS),
        labels=settings.labels,
        pseudo_labels=settings.dicom_pseudo_labels,
    )


class DicomWebStudy(ListedStudy):
    """The series of a DICOMweb server, each a scan; its id is the SeriesInstanceUID.

    Args:
        server: the server.
        folder: the cache; nothing in it is the only copy, but for pseudo-labels that were not sent.
        search: further conditions for series, as DICOM keywords.
        age: seconds after which the lists are fetched anew.
        labels: the structures if they are set; gives fetched labels their values.
        pseudo_labels: which pseudo-labels are sent, see ``lib.setup.settings.PSEUDO_LABELS``.
    """

    def __init__(
        self,
        server: DicomWebServer,
        folder: Path,
        *,
        search: Mapping[str, Any],
        age: float,
        labels: LabelSchema | None,
        pseudo_labels: str,
    ) -> None:
        self._labels = labels
        self._exchange = SegExchange(server, labels)
        self._failures = Failures()
        self._fetching = threading.RLock()
        super().__init__(folder, pseudo_labels, server, Lists(server, search, labels), age)
        logger.info("DICOMweb server %s, cache %s, search %s", server.address, folder, dict(search) or "all scans")
        self._begin()

    def watch(self) -> None:
        """Nothing to watch, the server is asked; but what it could not be given is offered to it again."""
        Retry(self._postponed, self.send_unsent).start()

    def _forget_failures(self, uid: str) -> None:
        self._failures.forget(uid)

    # --- fetching -------------------------------------------------------------------------------------------------

    def get_image_uri(self, image_id: str) -> str:
        """Path of the scan, which is fetched if it is not there yet.

        Raises:
            HTTPException: when it cannot be fetched.
        """
        item = self._list.objects.get(image_id)
        if item is None:
            return ""
        path = Path(super().get_image_uri(image_id))
        if not path.is_file():
            with http_answers(), self._fetching, self._failures.remembered(image_id):
                self._cache.put_scan(str(item.image.info["StudyInstanceUID"]), image_id, path)
        return str(path)

    def dicom_of(self, image_id: str) -> Path:
        """Folder with the DICOM files of a scan, fetched if it is not there yet.

        Raises:
            UserError: when it cannot be fetched.
        """
        info = self._known(image_id).image.info
        with self._fetching, self._failures.remembered(image_id):
            return self._cache.fetch(str(info["StudyInstanceUID"]), image_id)

    def scan_stamp(self, image_id: str) -> tuple[str, int, int]:
        """Changes when images are added to a series or taken out: more cannot change. Nothing is fetched for this."""
        item = self._list.objects.get(image_id)
        return image_id, int(item.image.info.get("instances") or 0) if item is not None else 0, 0

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known of a label; the names of its values follow from its SEG, as its copy does."""
        info = dict(super().get_label_info(label_id, label_tag))
        if DicomLabelFacts.from_info(info).seg is not None:
            info["label_info"] = meaning_of(info.get("label_info"), self._labels)
        return info

    def label_stamp(self, image_id: str, tag: str) -> tuple[str, int, int]:
        """Changes when a label does, not when it is sent to the server. Nothing is fetched for this."""
        known = DicomLabelFacts.from_info(self.get_label_info(image_id, tag))
        uid = "" if known.seg is None else known.seg.uid
        return f"{image_id} {known.content or uid}", int(known.saved or 0), 0

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label, which is fetched if it is not there yet; one that cannot be fetched is not at its path."""
        tag = str(getattr(label_tag, "value", label_tag))
        label = self._list.label(label_id, tag)
        if label is None:
            return ""
        seg = DicomLabelFacts.of(label).seg
        if seg is None:
            return str(super().get_label_uri(label_id, tag))
        path = self._copies.path(label_id, tag, seg.uid)
        if not path.is_file():
            try:
                with self._fetching, self._failures.remembered(seg.uid):
                    scan = read_volume(self.get_image_uri(label_id))
                    self._copies.put(path, self._exchange.fetch(seg, scan), scan)
            except (UserError, HTTPException) as error:
                # One bad SEG must not stand in the way of all other labels: whoever reads the path finds nothing there.
                logger.warning(
                    "The SEG %s of %s cannot be used: %s", seg.uid, label_id, getattr(error, "detail", error)
                )
        return str(path)

    # --- changes --------------------------------------------------------------------------------------------------

    @http_answers()
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: scans come from the server."""
        raise UserError("Scans of this study come from a DICOM server: send them there as DICOM.", status=409)

    @http_answers()
    def remove_image(self, image_id: str) -> None:
        """Refused: DICOMweb cannot delete."""
        raise UserError(f"Delete the series {image_id} on the DICOM server itself.", status=409)

    @http_answers()
    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Refused for what the server has: DICOMweb cannot delete, and the label would come back."""
        with self._sends_nothing(_DELETE_SECONDS):
            seg = self._seg_of(label_id, str(getattr(label_tag, "value", label_tag)))
            if seg is not None:
                raise UserError(
                    f"This label is the SEG series {seg.series} on the DICOM server. Delete it "
                    "there, and it is gone here within seconds.",
                    status=409,
                )
            super().remove_label(label_id, label_tag)

    @http_answers()
    def reject_label(self, label_id: str, label_tag: str, why: str) -> None:
        """Have a label count no longer; its SEG stays on the server, and a note beside it says ``why``."""
        with self._sends_nothing(_DELETE_SECONDS):
            seg = self._seg_of(label_id, label_tag)
            if seg is None:
                super().remove_label(label_id, label_tag)
                return
            self._exchange.reject(seg, why)
            self._lists.reject(seg.uid)
            with self._transaction():
                if self._seg_of(label_id, label_tag) == seg:
                    self._delete_file(label_id, label_tag)
                    del self._known(label_id).labels[label_tag]
                    self._write_list()

    def _seg_of(self, label_id: str, tag: str) -> StoredSeg | None:
        label = self._known(label_id).labels.get(tag)
        return None if label is None else DicomLabelFacts.of(label).seg

    @http_answers()
    def save_labels(
        self,
        label_tag: str,
        labels: Mapping[str, tuple[str, Mapping[str, Any] | None]],
        *,
        interim: bool = False,
    ) -> None:
        """Store labels on the server as DICOM SEG, and a copy here.

        A person's label that does not get there is refused, so that nobody takes it for safe. The app's own is kept
        here, and only here if the settings say so.
        """
        tag = str(getattr(label_tag, "value", label_tag))
        if tag == FINAL:
            self._refuse_unless_serving()
        kept: dict[str, tuple[str, Mapping[str, Any] | None]] = {}
        sent: dict[str, DicomLabelFacts] = {}
        goes = tag == FINAL or (
            tag == ORIGINAL and (self._sends == "always" or (self._sends == "last" and not interim))
        )
        for scan_id, (file, given) in labels.items():
            self._known(scan_id)
            label = replace(
                DicomLabelFacts.from_info(plain_info(given)),
                content=content_of(file, given or {}),
                saved=int(time.time()),
            )
            if goes and tag == FINAL:
                label = label.on_server(self._send(scan_id, file, tag, label))
            elif goes:
                label = self._sent_own(scan_id, file, label)
            if label.seg is not None:
                sent[scan_id] = label
            else:
                kept[scan_id] = file, label.to_info()
        if sent:
            self._note_sent(tag, sent)
        if kept:
            super().save_labels(tag, kept)

    def _note_sent(self, tag: str, sent: Mapping[str, DicomLabelFacts]) -> None:
        """Note labels that the server has; their copies are here."""
        with self._transaction():
            for scan_id, label in sent.items():
                labels = self._known(scan_id).labels
                noted, before = label, labels.get(tag)
                if tag == FINAL and before is not None and label.seg is not None:
                    noted = replace(label, seg=label.seg.after(DicomLabelFacts.of(before)))
                labels[tag] = noted.model(EXTENSION)
            self._write_list()
        for scan_id, label in sent.items():
            if label.seg is not None:
                self._copies.delete(scan_id, tag, keep=self._copies.path(scan_id, tag, label.seg.uid))

    def _sent_own(self, scan_id: str, file: str, label: DicomLabelFacts) -> DicomLabelFacts:
        """Send a pseudo-label unless the server has the same already; returns what is known of it then."""
        before = self._list.label(scan_id, ORIGINAL)
        known = None if before is None else DicomLabelFacts.of(before)
        if known is not None and known.seg is not None and known.content == label.content:
            return label.on_server(known)
        try:
            return label.on_server(self._send(scan_id, file, ORIGINAL, label))
        except (UserError, HTTPException) as error:
            text = str(getattr(error, "detail", error))
            logger.warning("The label of %s is kept here only: %s", scan_id, text)
            return label.kept_here(text, away=is_away(error))

    def _send(
        self, scan_id: str, file: str, tag: str, label: DicomLabelFacts, *, again: bool = False
    ) -> DicomLabelFacts:
        """Upload a label as SEG and keep a copy; returns what is known of it on the server."""
        source = Source(read_volume(self.get_image_uri(scan_id)), self.dicom_of(scan_id))
        stored, array = self._exchange.send(scan_id, file, source, label, person=tag == FINAL, again=again)
        assert stored.seg is not None
        self._copies.put(self._copies.path(scan_id, tag, stored.seg.uid), array, source.scan, Path(file))
        return stored
