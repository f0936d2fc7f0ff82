"""How unsure the app is about each scan: a small file beside the models, the one place that works with every datastore.

A score belongs to one state of the specialist (or, before there is one, of the final labels). Scores of another state
still order the scans, and say by their ``of`` that they are out of date.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.exception import MONAILabelException

from lib.volumes import write_whole

from .store import ORIGINAL, StudyDatastore
from .study import Study, stamp_of

logger = logging.getLogger("semisam.scores")


class Scores:
    """Uncertainty of each scan, 0 to 1.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._path = study.folder / "scores.json"

    def state(self) -> str:
        """What scores depend on besides the scan: the specialist in service, else the final labels."""
        study = self._study
        if study.published.is_file():
            parts: list[object] = [stamp_of(study.published)]
        else:
            parts = [(item.name, stamp_of(item.label)) for item in study.outlined()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def read(self) -> dict[str, dict[str, Any]]:
        """The stored scores by scan: ``uncertainty`` or ``failed``, ``of`` (see ``state``), ``ts``."""
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def put(self, values: Mapping[str, float]) -> None:
        """Add scores that belong to the present state, and note them at the images where the datastore can."""
        if not values:
            return
        now = int(time.time())
        self._add({name: {"uncertainty": round(v, 5), "ts": now} for name, v in values.items()})
        infos = {name: {"uncertainty": round(v, 5), "uncertainty_ts": now} for name, v in values.items()}
        store = self._study.datastore
        if isinstance(store, StudyDatastore):
            store.update_image_infos({n: i for n, i in infos.items() if n in store.list_images()})
            return
        for name, info in infos.items():
            try:
                store.update_image_info(name, info)
            except (MONAILabelException, NotImplementedError) as error:
                logger.debug("No note at %s: %s", name, error)

    def put_failed(self, names: Iterable[str]) -> None:
        """Note scans that cannot be scored, so that they are not due again and again."""
        if names := list(names):
            self._add({name: {"failed": True, "ts": int(time.time())} for name in names})

    def _add(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        state = self.state()
        content = {**self.read(), **{name: {**entry, "of": state} for name, entry in entries.items()}}
        text = json.dumps(content, indent=1, sort_keys=True)
        write_whole(self._path, lambda name: Path(name).write_text(text, encoding="utf-8"))

    def missing(self, *, retry: bool = False) -> list[str]:
        """Scans without a final label that have no score of the present state; with ``retry`` the failed ones too."""
        state, content = self.state(), self.read()
        entries = {name: content.get(name, {}) for name in self._study.unlabelled()}
        return [n for n, entry in entries.items() if entry.get("of") != state or (retry and entry.get("failed"))]

    def doubts(self) -> dict[str, float]:
        """The best guess of how unsure the app is about each unlabelled scan; scans without any guess are left out.

        A score of the present state goes first, then what the pseudo-label says, then a score that is out of date.
        """
        state, content = self.state(), self.read()
        guesses = {}
        for name in self._study.unlabelled():
            entry = content.get(name, {})
            score = entry.get("uncertainty")
            own = self.doubt_of_label(name)
            guess = score if entry.get("of") == state or own is None else own
            if isinstance(guess, (int, float)):
                guesses[name] = float(guess)
        return guesses

    def doubt_of_label(self, name: str) -> float | None:
        """What a stored pseudo-label says about itself; for a propagated one 1 - confidence, whoever stored it."""
        params = self._study.datastore.get_label_info(name, ORIGINAL).get("params") or {}
        propagated = params.get("source") == "propagation" and "confidence" in params
        if isinstance(params.get("uncertainty"), (int, float)) and not propagated:
            return float(params["uncertainty"])
        if isinstance(params.get("confidence"), (int, float)):
            return 1.0 - float(params["confidence"])
        return None
