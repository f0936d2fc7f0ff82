"""A DICOMweb server as a study: its series are the scans, its SEG objects the labels.

MONAI Label's own DICOMWebDatastore lists CT only, keeps lists for two hours, names segments by their position among
those present, never looks at a newer SEG of a scan, and takes half a download for a scan. This one is a StudyDatastore
whose folder is a cache: scans and labels come from the server when they are first asked for, and lists within seconds.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import DataModel, ImageLabelModel

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.labels import LabelSchema
from lib.formats.volumes import read_volume
from lib.setup.settings import Settings
from server.errors import http_answers, reason_of
from server.store.folder_store import FINAL, ORIGINAL, plain_info
from server.upstream import dicomweb_settings
from server.upstream.datastore_file import file_name

from .cache import Failures, SeriesCache, retry_after, stopwatch
from .copies import EXTENSION, LabelCopies
from .labels import Source, meaning_of
from .lists import Listed, Lists, is_newer, put_after
from .segs import SegExchange, noted
from .sending import SendingStudy, content_of, is_away
from .server import DicomWebServer
from .unsent import Retry

logger = logging.getLogger("semisam.dicomweb")

LIST_SECONDS = 10
"""Age at which the lists of series are fetched anew."""
PATIENCE_SECONDS = 3.0
"""How long a request waits for new lists."""

_DELETE_SECONDS = 5.0
"""How long a deletion waits for labels that are being sent."""
_MARKER = ".labels-by-seg"
"""In a cache whose copies of labels are named after their SEG."""


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


class DicomWebStudy(SendingStudy):
    """The series of a DICOMweb server, each a scan; its id is the SeriesInstanceUID.

    Args:
        server: the server.
        folder: the cache; nothing in it is the only copy, but for pseudo-labels that were not sent.
        search: further conditions for series, as DICOM keywords.
        age: seconds after which the lists are fetched anew.
        labels: the structures if they are set; gives fetched labels their values.
        pseudo_labels: which pseudo-labels are sent, see ``lib.setup.settings.PSEUDO_LABELS``.
    """

    _notes_in_files = False

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
        self._server = server
        self._lists = Lists(server, search, labels)
        self._cache = SeriesCache(folder, server)
        self._labels = labels
        self._exchange = SegExchange(server, labels)
        self._copies = LabelCopies(folder, labels)
        self._failures = Failures()
        self._age = age
        self._due = -math.inf
        self._asking = threading.Lock()
        self._fetching = threading.RLock()
        super().__init__(folder, pseudo_labels)
        self._forget_older_copies(folder / _MARKER)
        logger.info("DICOMweb server %s, cache %s, search %s", server.address, folder, dict(search) or "all scans")
        error = self._fetch_lists()
        if error is not None:
            if not self._list.objects:
                raise UserError(
                    f"{error}: {self.name()}. Check its address and log-in, and start again. The lines above have more."
                )
            logger.warning("%s; the lists are those of before", error)

    def name(self) -> str:
        """The server's address."""
        return self._server.address

    def watch(self) -> None:
        """Nothing to watch, the server is asked; but what it could not be given is offered to it again."""
        Retry(self._postponed, self.send_unsent).start()

    # --- lists ----------------------------------------------------------------------------------------------------

    def list_images(self) -> list[str]:
        """See the base class."""
        self._ask()
        return list(super().list_images())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """See the base class."""
        self._ask()
        return list(super().get_labeled_images())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """See the base class."""
        self._ask()
        return list(super().get_unlabeled_images())

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """See the base class."""
        self._ask()
        return str(super().get_label_by_image_id(image_id, tag))

    def json(self) -> dict[str, Any]:
        """See the base class."""
        self._ask()
        return dict(super().json())

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Paths of the outlined scans and their labels, which are fetched."""
        names = self.get_labeled_images()
        return [{"image": self.get_image_uri(n), "label": self.get_label_uri(n, FINAL)} for n in names]

    def _ask(self) -> None:
        """Fetch the lists if they are old, and wait a moment for them; until they are there, those of before hold."""
        if self._drafter == threading.get_ident() and self._draft is not None:
            return
        if time.monotonic() < self._due or not self._asking.acquire(blocking=False):
            return
        thread = threading.Thread(target=self._refresh, daemon=True, name="semisam-dicomweb")
        try:
            thread.start()
        except RuntimeError:  # the machine has no thread left
            self._asking.release()
            raise
        thread.join(PATIENCE_SECONDS)

    def _refresh(self) -> None:
        """Fetch the lists, in a thread of its own; what is known stays when the server does not answer."""
        try:
            error = self._fetch_lists()
            if error is not None:
                logger.warning("%s; the lists are those of before", error)
        except Exception:
            logger.exception("The lists of %s could not be taken over", self.name())
        finally:
            self._asking.release()

    def _fetch_lists(self) -> str | None:
        """Fetch and adopt the lists; returns what went wrong with the server."""
        elapsed = stopwatch()
        try:
            listed = self._lists.ask(self._list.objects)
        except Exception as error:
            # Network, HTTP status, JSON: the client raises many kinds of errors. A silent server is not asked at once
            # again.
            self._due = time.monotonic() + max(self._age, retry_after(elapsed()))
            logger.warning("%s: %s: %s", self.name(), type(error).__name__, str(error)[:400])
            return f"The DICOM server {reason_of(error)}"
        self._due = time.monotonic() + self._age
        self._adopt(listed)
        return None

    def _adopt(self, listed: Listed) -> None:
        """Bring what is known in line with the lists of the server."""
        with self._transaction():
            before = self._list.model_dump()
            self._adopt_scans(listed)
            self._adopt_labels(listed)
            if self._list.model_dump() != before:
                self._write_list()

    def _adopt_scans(self, listed: Listed) -> None:
        objects = self._list.objects
        for uid in set(objects) - set(listed.scans):
            # Pseudo-labels stay on the disk in case the series comes back.
            logger.info("Series %s is no longer listed by the server", uid)
            self._delete_file(uid, FINAL)
            self._drop_scan(uid)
            del objects[uid]
        for uid, scan in listed.scans.items():
            known = objects.get(uid)
            if known is None:
                info = {"ts": int(listed.began), **scan.info}
                objects[uid] = ImageLabelModel(image=scan.model_copy(update={"info": info}))
                continue
            if known.image.info.get("instances") != scan.info["instances"]:
                self._drop_scan(uid)  # the series was still arriving
            known.image.info.update(scan.info)
            known.image.ext = scan.ext

    def _adopt_labels(self, listed: Listed) -> None:
        newest = listed.newest()
        uids = {seg.header.uid for seg in listed.segs}
        for uid, item in self._list.objects.items():
            final, theirs = item.labels.get(FINAL), newest.get((uid, FINAL))
            if final is not None and final.info.get("SOPInstanceUID") in uids:
                final.info["listed"] = True
            if final is not None and listed.misses(final):
                self._take_label(uid, FINAL, None)
                final = None
            if theirs is not None and (final is None or is_newer(theirs, final)):
                label = theirs.label()
                put_after(label.info, final)
                self._take_label(uid, FINAL, label)
            elif theirs is None and final is not None and listed.knows(final):
                self._take_label(uid, FINAL, None)
            self._drop_lost(uid)
            own, theirs = item.labels.get(ORIGINAL), newest.get((uid, ORIGINAL))
            if own is None and theirs is not None:
                item.labels[ORIGINAL] = theirs.label()  # a copy may be on the disk
            elif own is not None and own.info.get("SOPInstanceUID"):
                here = own.info.get("SeriesInstanceUID") in listed.seg_series
                own.info.update({"listed": True} if here else {})
                if not here and listed.knows(own):
                    self._take_label(uid, ORIGINAL, None)
                elif theirs is not None and own.info["SOPInstanceUID"] != theirs.header.uid:
                    # The newest instance was deleted.
                    self._take_label(uid, ORIGINAL, theirs.label())

    def _take_label(self, uid: str, tag: str, label: DataModel | None) -> None:
        """Note another label of a scan, or that there is none any more; in a transaction."""
        labels = self._list.objects[uid].labels
        self._delete_file(uid, tag)
        if label is not None:
            labels[tag] = label
            return
        logger.info("The %s label of %s is no longer on the server", tag, uid)
        del labels[tag]

    def _delete_file(self, uid: str, tag: str) -> None:
        self._copies.delete(uid, tag)

    def _drop_lost(self, uid: str) -> None:
        """Forget a label that was only here when its file is gone: somebody has deleted the cache."""
        label = self._list.label(uid, ORIGINAL)
        if label is not None and not label.info.get("SOPInstanceUID") and not os.path.exists(self._own_file(uid)):
            logger.warning("The label of %s is lost: it was only in the cache, where its file is gone", uid)
            del self._list.objects[uid].labels[ORIGINAL]

    def _forget_older_copies(self, marker: Path) -> None:
        """Fetch labels anew that an older version has kept: what their values mean was in its memory only."""
        if marker.exists():
            return
        with self._transaction():
            for uid, item in self._list.objects.items():
                for tag in [tag for tag, label in item.labels.items() if label.info.get("SOPInstanceUID")]:
                    self._copies.delete(uid, tag)
                    del item.labels[tag]
            self._write_list()
        write_whole(marker, lambda name: Path(name).write_text("1", encoding="ascii"))

    def _drop_scan(self, uid: str) -> None:
        self._failures.forget(uid)
        self._cache.drop(uid)

    # --- the cache folder -----------------------------------------------------------------------------------------

    def _take_up_scans(self) -> int:
        """Only the server says which scans there are."""
        return 0

    def _take_up_labels(self, tag: str) -> int:
        """Only the server says which labels are people's."""
        return 0 if tag == FINAL else int(super()._take_up_labels(tag))

    def _take_out_missing(self) -> int:
        """A file that is not there has not been fetched yet; only labels that are nowhere else are gone."""
        gone = 0
        for uid, item in self._list.objects.items():
            for tag, label in list(item.labels.items()):
                path = os.path.join(self._list.label_path(tag), file_name(uid, label.ext))
                if not label.info.get("SOPInstanceUID") and not os.path.exists(path):
                    del item.labels[tag]
                    gone += 1
        return gone

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
        if info.get("SOPInstanceUID"):
            info["label_info"] = meaning_of(info.get("label_info"), self._labels)
        return info

    def label_stamp(self, image_id: str, tag: str) -> tuple[str, int, int]:
        """Changes when a label does, not when it is sent to the server. Nothing is fetched for this."""
        info = self.get_label_info(image_id, tag)
        return f"{image_id} {info.get('content') or info.get('SOPInstanceUID') or ''}", int(info.get("ts") or 0), 0

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label, which is fetched if it is not there yet; one that cannot be fetched is not at its path."""
        tag = str(getattr(label_tag, "value", label_tag))
        label = self._list.label(label_id, tag)
        if label is None:
            return ""
        uid = str(label.info.get("SOPInstanceUID") or "")
        if not uid:
            return str(super().get_label_uri(label_id, tag))
        path = self._copies.path(label_id, tag, uid)
        if not path.is_file():
            try:
                with self._fetching, self._failures.remembered(uid):
                    scan = read_volume(self.get_image_uri(label_id))
                    self._copies.put(path, self._exchange.fetch(label.info, scan), scan)
            except (UserError, HTTPException) as error:
                # One bad SEG must not stand in the way of all other labels: whoever reads the path finds nothing there.
                logger.warning("The SEG %s of %s cannot be used: %s", uid, label_id, getattr(error, "detail", error))
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
            label = self._known(label_id).labels.get(str(getattr(label_tag, "value", label_tag)))
            if label is not None and label.info.get("SOPInstanceUID"):
                raise UserError(
                    f"This label is the SEG series {label.info['SeriesInstanceUID']} on the DICOM server. Delete it "
                    "there, and it is gone here within seconds.",
                    status=409,
                )
            super().remove_label(label_id, label_tag)

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
        sent: dict[str, DataModel] = {}
        for scan_id, (file, given) in labels.items():
            self._known(scan_id)
            info = {**plain_info(given), "content": content_of(file, given or {}), "ts": int(time.time())}
            if tag == FINAL or (
                tag == ORIGINAL and (self._sends == "always" or (self._sends == "last" and not interim))
            ):
                info |= self._send(scan_id, file, tag, info) if tag == FINAL else self._send_own(scan_id, file, info)
            if info.get("SOPInstanceUID"):
                sent[scan_id] = DataModel(info=info, ext=EXTENSION)
            else:
                kept[scan_id] = file, info
        if sent:
            self._note_sent(tag, sent)
        if kept:
            super().save_labels(tag, kept)

    def _note_sent(self, tag: str, sent: Mapping[str, DataModel]) -> None:
        """Note labels that the server has; their copies are here."""
        with self._transaction():
            for scan_id, label in sent.items():
                before = self._known(scan_id).labels.get(tag)
                if tag == FINAL:
                    put_after(label.info, before)
                self._list.objects[scan_id].labels[tag] = label
            self._write_list()
        for scan_id, label in sent.items():
            self._copies.delete(scan_id, tag, keep=self._copies.path(scan_id, tag, label.info["SOPInstanceUID"]))

    def _send_own(self, scan_id: str, file: str, info: Mapping[str, Any]) -> dict[str, Any]:
        """Send a pseudo-label unless the server has the same already; returns what to note, also of a failure."""
        known = self._list.label(scan_id, ORIGINAL)
        if known is not None and known.info.get("SOPInstanceUID") and known.info.get("content") == info["content"]:
            return noted(known.info)
        try:
            return self._send(scan_id, file, ORIGINAL, info)
        except (UserError, HTTPException) as error:
            text = str(getattr(error, "detail", error))
            logger.warning("The label of %s is kept here only: %s", scan_id, text)
            return {"only_here": text, "away": is_away(error)}

    def _send(
        self, scan_id: str, file: str, tag: str, info: Mapping[str, Any], *, again: bool = False
    ) -> dict[str, Any]:
        """Upload a label as SEG and keep a copy; returns what to note beside it."""
        source = Source(read_volume(self.get_image_uri(scan_id)), self.dicom_of(scan_id))
        note, label = self._exchange.send(scan_id, file, source, info, person=tag == FINAL, again=again)
        self._copies.put(self._copies.path(scan_id, tag, note["SOPInstanceUID"]), label, source.scan, Path(file))
        return note
