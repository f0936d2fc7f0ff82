"""A study on a DICOM server: its list of scans and labels follows the server's."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.datastore.local import ImageLabelModel
from typing_extensions import override

from lib.core.errors import UserError
from lib.core.files import write_whole
from server.errors import reason_of
from server.store.folder_store import FINAL, ORIGINAL
from server.upstream.datastore_file import file_name

from .cache import SeriesCache, retry_after, stopwatch
from .copies import EXTENSION, LabelCopies
from .label_facts import DicomLabelFacts
from .lists import Listed, Lists, Seg, is_newer
from .sending import SendingStudy
from .server import DicomWebServer

logger = logging.getLogger("semisam.dicomweb")

PATIENCE_SECONDS = 3.0
"""How long a request waits for new lists."""
_MARKER = ".labels-by-seg"
"""In a cache whose copies of labels are named after their SEG."""


class ListedStudy(SendingStudy):
    """The list of a study on a DICOM server.

    Args:
        folder: the cache.
        pseudo_labels: which pseudo-labels are sent.
        server: the server.
        lists: asks it for its lists.
        age: seconds after which the lists are fetched anew.

    Attributes:
        trouble: why the server could not say what it has when it was last asked; empty when it could.
    """

    trouble = ""
    _notes_in_files = False

    def __init__(self, folder: Path, pseudo_labels: str, server: DicomWebServer, lists: Lists, age: float) -> None:
        self._server = server
        self._lists = lists
        self._cache = SeriesCache(folder, server)
        self._copies = LabelCopies(folder, lists.labels)
        self._age = age
        self._due = -math.inf
        self._asking = threading.Lock()
        super().__init__(folder, pseudo_labels)
        self._forget_older_copies(folder / _MARKER)

    def _begin(self) -> None:
        """Fetch the lists for the first time.

        Raises:
            UserError: when the server cannot be asked and nothing is known from before.
        """
        error = self._fetch_lists()
        if error is not None:
            if not self._list.objects:
                raise UserError(
                    f"{error}: {self.name()}. Check its address and log-in, and start again. The lines above have more."
                )
            logger.warning("%s; the lists are those of before", error)

    @abstractmethod
    def _forget_failures(self, uid: str) -> None:
        """Try to fetch a scan again the next time."""

    @property
    def server(self) -> DicomWebServer:
        """The server."""
        return self._server

    def name(self) -> str:
        """The server's address."""
        return self._server.address

    def rejects(self, uid: str) -> bool:
        """Whether a reader has taken a SEG back, so that it no longer counts although the server still has it.

        Args:
            uid: SOP instance UID of the SEG.
        """
        return self._lists.rejects(uid)

    # --- lists ----------------------------------------------------------------------------------------------------

    @override
    def list_images(self) -> list[str]:
        self._ask()
        return list(super().list_images())

    @override
    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        self._ask()
        return list(super().get_labeled_images())

    @override
    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        self._ask()
        return list(super().get_unlabeled_images())

    @override
    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        self._ask()
        return str(super().get_label_by_image_id(image_id, tag))

    @override
    def json(self) -> dict[str, Any]:
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
            self.trouble = f"The DICOM server {reason_of(error)}"
            return self.trouble
        self._due, self.trouble = time.monotonic() + self._age, ""
        self._adopt(listed)
        return None

    def _adopt(self, listed: Listed) -> None:
        """Bring what is known in line with the lists of the server."""
        with self._transaction():
            # A label may have been rejected since the lists were asked for.
            listed = replace(listed, segs=[seg for seg in listed.segs if not self._lists.rejects(seg.header.uid)])
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
        for uid in self._list.objects:
            self._adopt_final(uid, newest.get((uid, FINAL)), listed)
            self._drop_lost(uid)
            self._adopt_original(uid, newest.get((uid, ORIGINAL)), listed)

    def _adopt_final(self, uid: str, theirs: Seg | None, listed: Listed) -> None:
        """Bring a person's label of a scan in line with the newest SEG of the server."""
        label = self._list.objects[uid].labels.get(FINAL)
        known = None if label is None else DicomLabelFacts.of(label)
        uids = {seg.header.uid for seg in listed.segs}
        if label is not None and known is not None and known.seg is not None and known.seg.uid in uids:
            known = replace(known, seg=replace(known.seg, listed=True))
            label.info = known.to_info()
        if known is not None and listed.misses(known):
            self._take_label(uid, FINAL, None)
            known = None
        if theirs is not None and (known is None or is_newer(theirs, known)):
            facts = theirs.facts(listed=True)
            assert facts.seg is not None
            self._take_label(uid, FINAL, replace(facts, seg=facts.seg.after(known)))
        elif theirs is None and known is not None and listed.knows(known):
            self._take_label(uid, FINAL, None)

    def _adopt_original(self, uid: str, theirs: Seg | None, listed: Listed) -> None:
        """Bring a pseudo-label of a scan in line with the newest SEG of the server."""
        labels = self._list.objects[uid].labels
        label = labels.get(ORIGINAL)
        if label is None:
            if theirs is not None:
                labels[ORIGINAL] = theirs.facts(listed=True).model(EXTENSION)  # a copy may be on the disk
            return
        known = DicomLabelFacts.of(label)
        if known.seg is None:
            return
        here = known.seg.series in listed.seg_series
        if here:
            known = replace(known, seg=replace(known.seg, listed=True))
            label.info = known.to_info()
        if not here and listed.knows(known):
            self._take_label(uid, ORIGINAL, None)
        elif theirs is not None and known.seg is not None and known.seg.uid != theirs.header.uid:
            # The newest instance was deleted.
            self._take_label(uid, ORIGINAL, theirs.facts(listed=True))

    def _take_label(self, uid: str, tag: str, label: DicomLabelFacts | None) -> None:
        """Note another label of a scan, or that there is none any more; in a transaction."""
        labels = self._list.objects[uid].labels
        self._delete_file(uid, tag)
        if label is not None:
            labels[tag] = label.model(EXTENSION)
            return
        logger.info("The %s label of %s is no longer on the server", tag, uid)
        del labels[tag]

    def _delete_file(self, uid: str, tag: str) -> None:
        self._copies.delete(uid, tag)

    def _drop_lost(self, uid: str) -> None:
        """Forget a label that was only here when its file is gone: somebody has deleted the cache."""
        label = self._list.label(uid, ORIGINAL)
        here_only = label is not None and DicomLabelFacts.of(label).seg is None
        if here_only and not os.path.exists(self._own_file(uid)):
            logger.warning("The label of %s is lost: it was only in the cache, where its file is gone", uid)
            del self._list.objects[uid].labels[ORIGINAL]

    def _forget_older_copies(self, marker: Path) -> None:
        """Fetch labels anew that an older version has kept: what their values mean was in its memory only."""
        if marker.exists():
            return
        with self._transaction():
            for uid, item in self._list.objects.items():
                for tag in [tag for tag, label in item.labels.items() if DicomLabelFacts.of(label).seg is not None]:
                    self._copies.delete(uid, tag)
                    del item.labels[tag]
            self._write_list()
        write_whole(marker, lambda name: Path(name).write_text("1", encoding="ascii"))

    def _drop_scan(self, uid: str) -> None:
        self._forget_failures(uid)
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
                if DicomLabelFacts.of(label).seg is None and not os.path.exists(path):
                    del item.labels[tag]
                    gone += 1
        return gone
