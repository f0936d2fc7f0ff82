"""Pseudo-labels of a study on a DICOM server: which it does not have, and how it gets them later, each once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from filelock import FileLock, Timeout
from monailabel.datastore.local import DataModel, ImageLabelModel
from pydicom.uid import generate_uid

from lib.core.errors import UserError
from lib.core.label_names import names_in
from server.store.folder_store import FINAL, ORIGINAL, StudyDatastore

from .copies import EXTENSION
from .label_facts import DicomLabelFacts

logger = logging.getLogger("semisam.dicomweb")

_SENDING_SECONDS = 120.0
_AWAY = 502


Change = Callable[[DicomLabelFacts], DicomLabelFacts]


class SendingStudy(StudyDatastore):
    """A study whose pseudo-labels go to a server, sooner or later.

    Args:
        folder: the cache.
        pseudo_labels: which pseudo-labels are sent, see ``lib.setup.settings.PSEUDO_LABELS``.
    """

    def __init__(self, folder: Path, pseudo_labels: str) -> None:
        self._sends = pseudo_labels
        self._sending = FileLock(str(folder / ".sending"))
        super().__init__(str(folder))

    @abstractmethod
    def _send(
        self, scan_id: str, file: str, tag: str, label: DicomLabelFacts, *, again: bool = False
    ) -> DicomLabelFacts:
        """Upload a label and keep a copy; returns what is known of it on the server.

        Args:
            scan_id: id of the scan.
            file: the label.
            tag: whose label it is.
            label: what is known about it.
            again: whether it may have got there before, so that it is looked for first.

        Raises:
            UserError: (422) when it cannot be sent, (502) when the server does not take it.
        """

    def unsent(self) -> dict[str, str]:
        """Pseudo-labels that the server could not be given, by the scans' ids, each with the reason."""
        return {uid: label.only_here for uid, label in self._kept_here().items()}

    def _kept_here(self) -> dict[str, DicomLabelFacts]:
        found = {uid: self._unsent(item) for uid, item in self._list.objects.items()}
        known = {uid: DicomLabelFacts.of(label) for uid, label in found.items() if label is not None}
        return {uid: label for uid, label in known.items() if label.only_here}

    def _postponed(self) -> dict[str, str]:
        """Those that can be sent when the server is back; what is wrong with others is wrong with themselves."""
        return {uid: label.only_here for uid, label in self._kept_here().items() if label.away is not False}

    def send_unsent(self) -> None:
        """Offer the server what it could not be given because it was away."""
        self._send_kept(self._postponed())

    def publish(self, image_ids: Iterable[str]) -> None:
        """Send the pseudo-labels of these scans, as far as the server does not have them and is to have them.

        What could not be sent before is tried again on this occasion.
        """
        if self._sends != "never":
            self._send_kept([*dict.fromkeys([*image_ids, *self._postponed()])])

    def _unsent(self, item: ImageLabelModel | None) -> DataModel | None:
        """The pseudo-label of a scan that nobody has outlined, if the server does not have it."""
        label = item.labels.get(ORIGINAL) if item is not None and FINAL not in item.labels else None
        return None if label is None or DicomLabelFacts.of(label).seg is not None else label

    def _send_kept(self, names: Iterable[str]) -> None:
        """Send pseudo-labels that are kept here; when the server is away, it is not asked for each of them."""
        away = ""
        with self._sends_nothing():
            for uid in names:
                label = self._unsent(self._list.objects.get(uid))
                file = self._own_file(uid) if label is not None else ""
                if label is None or not os.path.isfile(file):
                    continue
                before = DicomLabelFacts.of(label)
                again = bool(before.send_as)
                now = replace(
                    before,
                    content=before.content or content_of(file, before.said),
                    send_as=before.send_as or str(generate_uid(None)),
                )
                if not again and not away:
                    # If this process is killed before it has noted the end, the next one looks for this SEG first.
                    self._note_if_same(uid, before, partial(replace, send_as=now.send_as, content=now.content))
                change, away = self._sent_or_reason(uid, file, now, away, again=again)
                self._note_if_same(uid, now, change)

    def _sent_or_reason(
        self, uid: str, file: str, label: DicomLabelFacts, away: str, *, again: bool
    ) -> tuple[Change, str]:
        """What to note about a label that was to be sent, and why the server is taken to be away ("" if it is not)."""
        if away:
            return lambda known: known.kept_here(away, away=True), away
        try:
            stored = self._send(uid, file, ORIGINAL, label, again=again)
            return lambda known: known.on_server(stored), ""
        except (UserError, HTTPException) as error:
            text, gone = str(getattr(error, "detail", error)), is_away(error)
            logger.warning("The label of %s is kept here only: %s", uid, text)
            return lambda known: known.kept_here(text, away=gone), text if gone else ""

    def _note_if_same(self, uid: str, before: DicomLabelFacts, change: Change) -> None:
        """Note something of a pseudo-label, unless it was replaced or deleted meanwhile."""
        with self._transaction():
            label = self._unsent(self._list.objects.get(uid))
            if label is None:
                return
            known = DicomLabelFacts.of(label)
            pairs = ((known.content, before.content), (known.send_as, before.send_as))
            if known.saved != before.saved or any(now and now != then for now, then in pairs):
                return
            known = change(known)
            label.info = known.to_info()
            if known.seg is not None:
                label.ext = EXTENSION
            self._write_list()

    @contextmanager
    def _sends_nothing(self, seconds: float = _SENDING_SECONDS) -> Iterator[None]:
        """Hold the lock of whoever sends: nothing is sent twice, and nothing that is being deleted.

        Args:
            seconds: how long it is waited for.
        """
        try:
            with self._sending.acquire(timeout=seconds):
                yield
        except Timeout as error:
            raise UserError(
                "Labels are just being sent to the DICOM server. Try again in a minute.", status=409
            ) from error

    def _own_file(self, scan_id: str) -> str:
        """Where a pseudo-label is that the server does not have."""
        return str(StudyDatastore.get_label_uri(self, scan_id, ORIGINAL))


def is_away(error: Exception) -> bool:
    """Whether the server is to blame, and not the label."""
    return getattr(error, "status", getattr(error, "status_code", 0)) == _AWAY


def content_of(file: str, info: Mapping[str, Any]) -> str:
    """Tells labels apart by their voxels and names."""
    names = json.dumps(names_in(info))
    return hashlib.sha256(Path(file).read_bytes() + names.encode()).hexdigest()[:16]
