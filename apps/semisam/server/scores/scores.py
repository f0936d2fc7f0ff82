"""What is known about each scan: a small file beside the models, the one place that works with every datastore.

A score belongs to one state of the scan and of what judged it: the specialist (or, before there is one, the final
labels), and for the quality of a pseudo-label that label. Scores of another state still order the scans, and say by
their ``of`` that they are out of date.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from monailabel.interfaces.exception import MONAILabelException

from lib.core.cache import stamp_of
from lib.core.errors import UserError
from lib.selection import Calibration
from lib.selection.measures import QUALITY, REPRESENTATIVENESS, UNCERTAINTY
from server.store.folder_store import FINAL, ORIGINAL, StudyDatastore
from server.store.study import Study

from .scores_file import Content, ScoresFile

logger = logging.getLogger("semisam.scores")

UNCERTAINTY_MEASURES = ("least_confidence", "highest_entropy", "highest_entropy_ratio")
"""Measures that the method ``uncertainty`` gives besides ``uncertainty`` itself."""

UNUSABLE = "unusable"
"""Key of scans that cannot be read at all."""
_SETTLED = "settled"
_MIRRORED = (REPRESENTATIVENESS, UNCERTAINTY, QUALITY, *UNCERTAINTY_MEASURES)


class Scores:
    """The scores of the study's scans, by scan and scoring method.

    The server, a scoring and a training write at the same time: each change is made under a lock to what is on disk.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._file = ScoresFile(study.place / "scores.json")

    # --- states ---------------------------------------------------------------------------------------------------

    def model_state(self) -> str:
        """What judges the scans: the specialist in service, else the final labels."""
        study = self._study
        if (published := self.specialist_state()) is not None:
            return published
        try:
            weights = str(getattr(study.generalist, "weights_hash", ""))
        except UserError:  # not there: whatever is found out without them is of another state
            weights = "missing"
        tools = study.settings.describing, weights, study.settings.propagator
        labels = [(each.name, each.names, study.label_stamp(each.name, FINAL)) for each in study.final_labels()]
        return _digest([tools, *labels])

    def specialist_state(self) -> str | None:
        """The specialist in service, None as long as there is none. Nothing is read for this."""
        return _digest(stamp_of(self._study.published)) if self._study.published.is_file() else None

    def states(self, method: str, model: str | None = None) -> Callable[[str], str]:
        """For a scan's name, what its score of this method depends on.

        A score is stored with the state that its question was asked in: what it depends on may change until it is
        there.

        Args:
            method: the scoring method, or ``UNUSABLE`` for the scan alone.
            model: ``model_state`` if it is known, by default that of now.
        """
        study = self._study
        if method in (REPRESENTATIVENESS, UNUSABLE):
            return lambda name: _digest(study.scan_stamp(name))
        model = self.model_state() if model is None else model
        if method == QUALITY:
            return lambda name: _digest([study.scan_stamp(name), model, study.label_stamp(name, ORIGINAL)])
        return lambda name: _digest([study.scan_stamp(name), model])

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self) -> Content:
        """All that is stored, see ``ScoresFile.read``."""
        return self._file.read()

    def missing(self, method: str, *, retry: bool = False) -> list[str]:
        """Scans without a final label that have no complete score of the present state.

        Args:
            method: ``UNCERTAINTY`` or ``QUALITY``; for the latter only scans with a pseudo-label count.
            retry: name the scans that could not be scored, too.
        """
        names = self._study.unlabelled()
        if method == QUALITY:
            names = [name for name in names if self._study.label_stamp(name, ORIGINAL)]
        if not names:
            return []
        content = self.read()
        unusable = {} if retry else self.unusable(content)
        state = self.states(method)
        wanted = (UNCERTAINTY, *UNCERTAINTY_MEASURES) if method == UNCERTAINTY else (QUALITY,)

        def done(name: str) -> bool:
            entry = content.get(name, {}).get(method, {})
            complete = all(key in entry for key in wanted) or ("failed" in entry and not retry)
            return name in unusable or (complete and entry.get("of") == state(name))

        return [name for name in names if not done(name)]

    def failed(self, method: str) -> set[str]:
        """Scans that a method could not score in the present state."""
        entries = {name: by_method.get(method, {}) for name, by_method in self.read().items()}
        entries = {name: entry for name, entry in entries.items() if "failed" in entry}
        if not entries:
            return set()
        state = self.states(method)
        return {name for name, entry in entries.items() if entry.get("of") == state(name)}

    def unusable(self, content: Content | None = None) -> dict[str, str]:
        """Scans that could not be read the last time, and why; a scan whose file was exchanged gets a new chance."""
        content = self.read() if content is None else content
        found = {}
        for name, entries in content.items():
            entry = entries.get(UNUSABLE)
            if entry and entry.get("of") == _digest(self._study.scan_stamp(name)):
                found[name] = str(entry.get("failed", ""))
        return found

    def known(self, method: str, key: str | None = None) -> dict[str, float]:
        """Stored values of scans by name, whether out of date or not.

        Args:
            method: the scoring method.
            key: which of its values, by default the one of the same name.
        """
        values = {name: entries.get(method, {}).get(key or method) for name, entries in self.read().items()}
        return {name: float(v) for name, v in values.items() if isinstance(v, (int, float))}

    def stale(self, method: str, name: str) -> bool:
        """Whether the stored score of a scan is of another state than the present one."""
        entry = self.read().get(name, {}).get(method, {})
        return bool(entry.get("of") != self.states(method)(name))

    def planes(self, name: str) -> dict[str, Any] | None:
        """The planes that are most worth outlining in a scan, see ``lib.selection.planes_in_scan``."""
        planes = self.read().get(name, {}).get(UNCERTAINTY, {}).get("planes")
        return planes if isinstance(planes, dict) else None

    def uncertainties(self) -> dict[str, float]:
        """The best guess of how unsure the app is about each unlabelled scan; scans without any guess are left out.

        A score of the present state goes first, then what the pseudo-label says, then a score that is out of date.
        """
        names, content = self._study.unlabelled(), self.read()
        if not names:
            return {}
        state = self.states(UNCERTAINTY)
        guesses = {}
        for name in names:
            entry = content.get(name, {}).get(UNCERTAINTY, {})
            guess: object = entry.get(UNCERTAINTY)
            if entry.get("of") != state(name):
                own = self.uncertainty_of_label(name)
                guess = guess if own is None else own
            if isinstance(guess, (int, float)):
                guesses[name] = float(guess)
        return guesses

    def uncertainty_of_label(self, name: str) -> float | None:
        """What a stored pseudo-label says about itself; for a propagated one 1 - confidence, whoever stored it."""
        params = self._study.datastore.get_label_info(name, ORIGINAL).get("params") or {}
        propagated = params.get("source") == "propagation" and "confidence" in params
        if isinstance(params.get("uncertainty"), (int, float)) and not propagated:
            return float(params["uncertainty"])
        if isinstance(params.get("confidence"), (int, float)):
            return 1.0 - float(params["confidence"])
        return None

    def calibration(self) -> Calibration:
        """From estimates of Dice to Dice, by the scans whose pseudo-label a person has replaced since."""
        pairs = [entries[_SETTLED] for entries in self.read().values() if _SETTLED in entries]
        pairs = [p for p in pairs if isinstance(p.get("raw"), (int, float)) and isinstance(p.get("dice"), (int, float))]
        return Calibration.fit([float(p["raw"]) for p in pairs], [float(p["dice"]) for p in pairs])

    # --- writing --------------------------------------------------------------------------------------------------

    def add(self, method: str, values: Mapping[str, Mapping[str, Any]], of: Mapping[str, str] | None = None) -> None:
        """Add scores, and note them at the images where the datastore can.

        Args:
            method: the scoring method.
            values: plain facts by scan.
            of: the states they belong to, by scan, see ``states``; None for the present ones.
        """
        here = set(self._study.datastore.list_images())
        # A person may have outlined a scan meanwhile.
        wanted = here if method == REPRESENTATIVENESS else here & set(self._study.unlabelled())
        values = {name: facts for name, facts in values.items() if name in wanted}
        if not values:
            return
        of, now = of or _each(values, self.states(method)), int(time.time())
        with self._file.lock():
            content = {name: entries for name, entries in self._file.load().items() if name in here}
            for name, facts in values.items():
                entries = content.setdefault(name, {})
                entries[method] = {**facts, "of": of[name], "ts": now}
                entries.pop(UNUSABLE, None)
            self._file.write(content)
        self._mirror(
            {n: {k: v for k, v in f.items() if k in _MIRRORED} | {f"{method}_ts": now} for n, f in values.items()}
        )

    def put(self, values: Mapping[str, float]) -> None:
        """Add uncertainties alone, as a training round knows them of its pseudo-labels; of the present state."""
        self.add(UNCERTAINTY, {name: {UNCERTAINTY: round(value, 5)} for name, value in values.items()})

    def put_unusable(self, reasons: Mapping[str, str], of: Mapping[str, str] | None = None) -> None:
        """Note scans that cannot be read, so that they are not due again and again, and not offered."""
        self.put_failed(UNUSABLE, reasons, of)

    def put_failed(self, method: str, reasons: Mapping[str, str], of: Mapping[str, str] | None = None) -> None:
        """Note scans that a method cannot score, so that they are not due again and again.

        Args:
            method: the scoring method.
            reasons: by scan.
            of: as for ``add``.
        """
        if not reasons:
            return
        of, now = of or _each(reasons, self.states(method)), int(time.time())
        with self._file.lock():
            content = self._file.load()
            for name, reason in reasons.items():
                content.setdefault(name, {})[method] = {"failed": reason, "of": of[name], "ts": now}
            self._file.write(content)

    def settle(self, name: str, dice: float | None) -> None:
        """A person has outlined a scan: what was guessed about it no longer counts.

        Args:
            name: the scan.
            dice: mean Dice of its pseudo-label against the person's label, None without a pseudo-label. Together with
                the estimate it teaches how far estimates can be trusted.
        """
        with self._file.lock():
            content = self._file.load()
            before = content.get(name)
            if before is None:
                return
            kept = {k: v for k, v in before.items() if k in (REPRESENTATIVENESS, _SETTLED)}
            raw = before.get(QUALITY, {}).get("raw")
            if dice is not None and isinstance(raw, (int, float)):
                kept[_SETTLED] = {"raw": raw, "dice": round(dice, 5), "ts": int(time.time())}
            content[name] = kept
            self._file.write(content)
        info = self._study.datastore.get_image_info(name)
        gone = [key for key in (UNCERTAINTY, QUALITY, *UNCERTAINTY_MEASURES) if info.get(key) is not None]
        self._mirror({name: dict.fromkeys(gone)})

    def forget(self, name: str) -> None:
        """A scan was deleted: another one of its name starts anew."""
        if name not in self.read():
            return
        with self._file.lock():
            content = self._file.load()
            content.pop(name, None)
            self._file.write(content)

    def _mirror(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Note facts at the images, for those who read MONAI Label's list; a datastore that cannot is no error."""
        infos = {name: info for name, info in infos.items() if info}
        store = self._study.datastore
        if isinstance(store, StudyDatastore):
            known = set(store.list_images())
            if infos := {n: i for n, i in infos.items() if n in known}:
                store.update_image_infos(infos)
            return
        for name, info in infos.items():
            try:
                store.update_image_info(name, dict(info))
            except (MONAILabelException, NotImplementedError) as error:
                logger.debug("No note at %s: %s", name, error)


def _each(names: Iterable[str], state: Callable[[str], str]) -> dict[str, str]:
    return {name: state(name) for name in names}


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
