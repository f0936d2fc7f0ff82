"""Pseudo-labels of a study on a DICOM server: which it does not have, and how it gets them later, each once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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

logger = logging.getLogger("semisam.dicomweb")

_SENDING_SECONDS = 120.0
_AWAY = 502


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
        self, scan_id: str, file: str, tag: str, info: Mapping[str, Any], *, again: bool = False
    ) -> dict[str, Any]:
        """Upload a label and keep a copy; returns what to note beside it.

        Args:
            scan_id: id of the scan.
            file: the label.
            tag: whose label it is.
            info: what is known about it.
            again: whether it may have got there before, so that it is looked for first.

        Raises:
            UserError: (422) when it cannot be sent, (502) when the server does not take it.
        """

    def unsent(self) -> dict[str, str]:
        """Pseudo-labels that the server could not be given, by the scans' ids, each with the reason."""
        return {uid: str(info["only_here"]) for uid, info in self._kept_here().items()}

    def _kept_here(self) -> dict[str, dict[str, Any]]:
        return {
            uid: label.info
            for uid, item in self._list.objects.items()
            if (label := self._unsent(item)) is not None and label.info.get("only_here")
        }

    def _postponed(self) -> dict[str, str]:
        """Those that can be sent when the server is back; what is wrong with others is wrong with themselves."""
        return {uid: str(info["only_here"]) for uid, info in self._kept_here().items() if info.get("away", True)}

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
        return None if label is None or label.info.get("SOPInstanceUID") else label

    def _send_kept(self, names: Iterable[str]) -> None:
        """Send pseudo-labels that are kept here; when the server is away, it is not asked for each of them."""
        away = ""
        with self._sends_nothing():
            for uid in names:
                label = self._unsent(self._list.objects.get(uid))
                file = self._own_file(uid) if label is not None else ""
                if label is None or not os.path.isfile(file):
                    continue
                before = dict(label.info)
                again = bool(before.get("send_as"))
                info = {"content": content_of(file, before), "send_as": str(generate_uid(None)), **before}
                if not again and not away:
                    # If this process is killed before it has noted the end, the next one looks for this SEG first.
                    self._note_if_same(uid, before, {"send_as": info["send_as"], "content": info["content"]})
                note, away = self._sent_or_reason(uid, file, info, away, again=again)
                self._note_if_same(uid, info, note)

    def _sent_or_reason(
        self, uid: str, file: str, info: Mapping[str, Any], away: str, *, again: bool
    ) -> tuple[dict[str, Any], str]:
        """What to note about a label that was to be sent, and why the server is taken to be away ("" if it is not)."""
        if away:
            return {"only_here": away, "away": True}, away
        try:
            return self._send(uid, file, ORIGINAL, info, again=again), ""
        except (UserError, HTTPException) as error:
            text = str(getattr(error, "detail", error))
            logger.warning("The label of %s is kept here only: %s", uid, text)
            away = text if is_away(error) else ""
            return {"only_here": text, "away": bool(away)}, away

    def _note_if_same(self, uid: str, before: Mapping[str, Any], note: Mapping[str, Any]) -> None:
        """Note something of a pseudo-label, unless it was replaced or deleted meanwhile."""
        with self._transaction():
            label = self._unsent(self._list.objects.get(uid))
            same = ("ts", "content", "send_as")
            if label is None or any(label.info.get(k) not in (None, before.get(k)) for k in same):
                return
            if label.info.get("ts") != before.get("ts"):
                return
            label.info.update(note)
            if note.get("SOPInstanceUID"):
                for key in ("only_here", "away"):
                    label.info.pop(key, None)
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
