"""What readers do on the page: accept a pseudo-label, send it back, and take that back once.

An accepted pseudo-label becomes ``final``. Each act is done whole and one after the other, whoever asks at the same
time, and only to what the reader has seen: a label that has changed meanwhile has to be looked at again.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lib.core.errors import UserError
from lib.core.label_names import as_label_info
from lib.core.negatives import counts_without
from lib.formats.label_files import largest_label
from lib.formats.volumes import read_volume
from server.dicomweb.datastore import DicomWebStudy
from server.scores.offered import OfferedScans
from server.scores.scores import QUALITY, UNCERTAINTY, Scores
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study

from .act_log import Act, ActLog
from .scan_rows import ACCEPTED

logger = logging.getLogger("semisam.page")

CLIENT = "semisam page"
_STAYS = "Its SEG stays on the DICOM server, with a note beside it that it is rejected and no longer counts."
MOST_NAME = 60
"""Characters of a reader's name."""


class Acts:
    """The acts of a study's readers: one line each in a file beside the scores.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._log = ActLog(study.place / "acts.jsonl")

    # --- looking --------------------------------------------------------------------------------------------------

    def stamp(self) -> object:
        """Changes with each act."""
        return self._log.stamp()

    def standing(self) -> Mapping[str, Act]:
        """The last act on each scan, those left out that were taken back."""
        return self._log.standing()

    def sent_back(self) -> dict[str, str]:
        """Who has sent a scan's pseudo-label back, by scan; scans that were outlined since are left out."""
        store = self._study.datastore
        return {
            name: act.by
            for name, act in self.standing().items()
            if act.act == "send_back" and not store.get_label_by_image_id(name, FINAL)
        }

    def of(self, name: str) -> list[Act]:
        """The acts on a scan, the last one first."""
        return [act for act in reversed(self._log.all()) if act.scan == name]

    def version(self, name: str, tag: str) -> str:
        """Changes with a scan's label of this tag; empty without one."""
        stamp = self._study.label_stamp(name, tag)
        return "" if stamp is None else hashlib.sha256(repr(stamp).encode()).hexdigest()[:20]

    # --- acting ---------------------------------------------------------------------------------------------------

    def accept(self, name: str, seen: str, by: str) -> list[str]:
        """Make a pseudo-label ``final``, as a person asks for.

        Args:
            name: the scan.
            seen: ``version`` of the pseudo-label that the person has looked at.
            by: who.

        Returns:
            Warnings.

        Raises:
            UserError: (404) without a pseudo-label, (409) when it is another one by now, or somebody was faster, (422)
                when it cannot be used.
        """
        by = reader_name(by)
        self._check(name, seen)
        study = self._study
        study.read_stored(name, ORIGINAL, read_volume(Path(study.datastore.get_image_uri(name))))  # nobody waits for it
        with self._log.alone(), self._copy(name, seen) as copy:
            empty = largest_label(copy) == 0
            facts = self._study.facts(name, ORIGINAL)
            params = {"params": dict(facts.params)} if facts.params is not None else {}
            self._study.datastore.save_label(
                name,
                str(copy),
                FINAL,
                {
                    "label_info": as_label_info(study.schema.as_dict().items()),
                    "user": by,
                    "client_id": CLIENT,
                    ACCEPTED: {"by": by, "at": int(time.time()), "model": facts.model or ""},
                    **params,
                },
            )
            kept = {k: v for k, v in Scores(self._study).read().get(name, {}).items() if k in (QUALITY, UNCERTAINTY)}
            self._log.note(Act("accept", name, by, time.time(), seen, self.version(name, FINAL), kept))
        logger.info("%s was accepted by %s", name, by)
        self._settle(name)
        return [counts_without(self._study.schema.names)] if empty else []

    def send_back(self, name: str, seen: str, by: str) -> None:
        """Say that a pseudo-label is not good enough: the scan is offered first from now on.

        Args:
            name: the scan.
            seen: as for ``accept``.
            by: who.

        Raises:
            UserError: as for ``accept``.
        """
        by = reader_name(by)
        with self._log.alone():
            self._check(name, seen)
            standing = self.standing().get(name)
            if standing is not None and standing.act == "send_back":
                raise UserError(f"{standing.by} has sent {name} back already.", status=409)
            self._log.note(Act("send_back", name, by, time.time(), seen))
        logger.info("%s was sent back by %s", name, by)

    def undo(self, name: str, by: str) -> list[str]:
        """Take back what the same reader has done last to a scan; once.

        Args:
            name: the scan.
            by: who.

        Returns:
            What else there is to know.

        Raises:
            UserError: (409) when there is nothing to take back, or somebody has changed the label since.
        """
        by = reader_name(by)
        with self._log.alone():
            act = self.standing().get(name)
            if act is None:
                raise UserError(f"There is nothing to take back on {name}.", status=409)
            if act.by != by:
                raise UserError(f"{act.by} has done this: only {act.by} can take it back.", status=409)
            if act.act == "accept":
                if not act.final or self.version(name, FINAL) != act.final:
                    raise UserError(f"The label of {name} was changed since it was accepted: it stays.", status=409)
                self._remove_final(name, by)
            self._log.note(Act("undo", name, by, time.time(), act.label))
        if act.act == "accept":
            self._restore(act)
        logger.info("%s has taken back: %s %s", by, act.act, name)
        return [_STAYS] if act.act == "accept" and isinstance(self._study.datastore, DicomWebStudy) else []

    @contextmanager
    def bringing(self, name: str) -> Iterator[None]:
        """Hold this while a label that was drawn elsewhere is stored as the first final label of a scan.

        Args:
            name: the scan.

        Raises:
            UserError: (409) when somebody was faster.
        """
        with self._log.alone():
            check_open(self._study, name)
            yield

    def _remove_final(self, name: str, by: str) -> None:
        store = self._study.datastore
        if isinstance(store, DicomWebStudy):
            store.reject_label(name, FINAL, f"{by} has taken back that this label was accepted.")
        else:
            store.remove_label(name, FINAL)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _check(self, name: str, seen: str) -> None:
        check_open(self._study, name)
        version = self.version(name, ORIGINAL)
        if not version:
            raise UserError(f"There is no pseudo-label of {name}.", status=404)
        if version != seen:
            raise UserError(
                f"The pseudo-label of {name} has changed since you looked at it. Look at it again.", status=409
            )

    @contextmanager
    def _copy(self, name: str, seen: str) -> Iterator[Path]:
        """A copy of a pseudo-label, surely of the one that was seen: a training may replace it at any time."""
        self._check(name, seen)
        file = self._study.stored_file(name, ORIGINAL)
        if not file.is_file():
            raise UserError(f"The pseudo-label of {name} could not be fetched. Try again.", status=502)
        with tempfile.TemporaryDirectory(prefix="accept-", dir=self._log.folder) as folder:
            copy = Path(folder) / file.name
            shutil.copyfile(file, copy)
            self._check(name, seen)
            yield copy

    def _settle(self, name: str) -> None:
        """What was guessed about the scan no longer counts. That the guess was accepted does not make it the truth
        that other estimates could learn from: nobody has drawn it.
        """
        try:
            Scores(self._study).settle(name, None)
            OfferedScans(self._study).done(name)
        except Exception as error:  # the label is stored
            logger.warning("The scores of %s could not be settled: %s", name, error)

    def _restore(self, act: Act) -> None:
        try:
            for method, entry in act.scores.items():
                facts = {key: value for key, value in entry.items() if key not in ("of", "ts")}
                Scores(self._study).add(method, {act.scan: facts}, of={act.scan: str(entry.get("of", ""))})
        except Exception as error:
            logger.warning("The scores of %s could not be put back: %s", act.scan, error)


def check_open(study: Study, name: str) -> None:
    """Raise UserError (409) when a scan has a final label already."""
    if study.datastore.get_label_by_image_id(name, FINAL):
        facts = study.facts(name, FINAL)
        who = f" by {facts.user}" if facts.user and facts.user != "admin" else ""
        raise UserError(f"{name} has a final label already, saved{who}.", status=409)


def reader_name(text: str) -> str:
    """A reader's name as it is noted.

    Raises:
        UserError: when there is none.
    """
    plain = "".join(sign for sign in unicodedata.normalize("NFC", text) if sign.isprintable())
    name = " ".join(plain.split())[:MOST_NAME].strip()
    if not name:
        raise UserError("Say who you are: your name stands with what you accept or send back.", status=422)
    return name
