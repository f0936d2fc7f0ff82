"""Small pictures of the scans, made in the background when they are first asked for, and kept on disk within bounds.

What is found out about final labels on the way is kept, too: volumes, and which ones cannot be used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import TTLCache

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.geometry import Volume
from lib.core.labels import count_values
from lib.formats.volumes import read_volume
from lib.report.planes import look_at, small_picture
from server.errors import text_of
from server.palette import colours_of
from server.store.folder_store import FINAL, ORIGINAL
from server.store.study import Study

logger = logging.getLogger("semisam.page")

EDGE = 160
"""Pixels of a plane."""
MOST_BYTES = 256 * 2**20
"""Of all pictures of a study; the oldest go first."""
MOST_WAITING = 400
"""Pictures that wait; what was asked for longest ago is forgotten, and asked for again if it is still looked at."""
_VERSION = 3
_VOLUMES, _FAULTS = "volumes.json", "faults.json"
_FAILED_SECONDS = 20.0
"""After how long a picture that could not be made is tried again: a DICOM server may be back."""
_AGAIN_SECONDS = 1.0
_EVERY = 50
"""Pictures after which the bounds are looked at."""
_LOW_PRIORITY = 10


class Pictures:
    """The pictures of a study, and what was found out about final labels on the way.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._folder = study.place / "pictures"
        self._waiting: OrderedDict[str, str] = OrderedDict()
        self._failed: TTLCache[str, str] = TTLCache(MOST_WAITING, _FAILED_SECONDS)
        self._wake = threading.Condition()
        self._worker: threading.Thread | None = None
        self._measured: Mapping[str, Mapping[str, float]] = _read(self._folder / _VOLUMES)
        self._faults: Mapping[str, Mapping[str, str]] = _read(self._folder / _FAULTS)

    def key(self, name: str) -> str:
        """What a scan's picture is called now; another one when scan or label change. Nothing is fetched for this."""
        study = self._study
        tag = self._tag(name)
        label = None if tag is None else study.label_stamp(name, tag)
        text = repr((_VERSION, EDGE, name, study.scan_stamp(name), tag, label, study.schema.names))
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def find(self, name: str) -> Path | None:
        """The picture of a scan as it is now; None when it has yet to be made, which is begun with this.

        Raises:
            UserError: (422) when it cannot be made.
        """
        key = self.key(name)
        path = self._file(key)
        if path.is_file():
            return path
        with self._wake:
            if key in self._failed:
                raise UserError(self._failed[key], status=422)
            self._waiting[key] = name
            self._waiting.move_to_end(key)
            while len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, daemon=True, name="semisam-pictures")
                self._worker.start()
            self._wake.notify()
        return None

    def measured(self) -> Mapping[str, Mapping[str, float]]:
        """Volumes in ml of the final labels that a picture was made of, by scan and structure."""
        return self._measured

    def faults(self) -> Mapping[str, str]:
        """Why final labels cannot be used, by scan, as far as a picture was made of them as they are now."""
        scans = set(self._study.datastore.list_images())
        return {n: each["why"] for n, each in self._faults.items() if n in scans and each["of"] == self.key(n)}

    def stamp(self) -> object:
        """Changes with what was found out."""
        return id(self._measured), id(self._faults)

    def _tag(self, name: str) -> str | None:
        store = self._study.datastore
        return next((tag for tag in (FINAL, ORIGINAL) if store.get_label_by_image_id(name, tag)), None)

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.jpg"

    # --- the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Make what waits, the last one that was asked for first; ends after a minute without anything to do."""
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)  # answers go first
        except (AttributeError, OSError):
            logger.debug("Pictures are made with the server's own priority")
        made = 0
        while True:
            with self._wake:
                if not self._waiting and not self._wake.wait(60):
                    self._worker = None
                    return
                if not self._waiting:
                    continue
                key, name = self._waiting.popitem()
            self._try(key, name)
            made += 1
            if made % _EVERY == 0:
                self._prune()

    def _try(self, key: str, name: str) -> None:
        """Make a picture, at the second try if need be: the file of a series may just have been fetched anew."""
        try:
            self._make(key, name)
            return
        except Exception as error:
            logger.debug("There is no picture of %s at first: %s", name, error)
        time.sleep(_AGAIN_SECONDS)
        try:
            self._make(key, name)
        except Exception as error:
            self._note_failure(key, name, error)

    def _note_failure(self, key: str, name: str, error: Exception) -> None:
        text = text_of(error)
        logger.info("There is no picture of %s: %s", name, text)
        with self._wake:
            self._failed[key] = text

    def _make(self, key: str, name: str) -> None:
        study = self._study
        tag = self._tag(name)
        scan = read_volume(Path(study.datastore.get_image_uri(name)))
        label = self._label(name, tag, scan) if tag else None
        looked = look_at(scan)
        picture = small_picture(
            looked, None if label is None else looked.turned(label), EDGE, colours_of(study.schema.as_dict())
        )
        if tag == FINAL:
            self._check(key, name)
            if label is not None:
                self._measure(name, label, scan)
        path = self._file(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, lambda whole: Path(whole).write_bytes(picture))

    def _measure(self, name: str, label: np.ndarray, scan: Volume) -> None:
        """Remember the volumes of a final label: nobody else works them out."""
        counts = count_values(label)
        schema = self._study.schema
        volumes = {n: round(float(counts[v]) * scan.voxel_ml, 3) for n, v in schema.as_dict().items()}
        if self._measured.get(name) != volumes:
            self._measured = {**self._measured, name: volumes}
            _write(self._folder / _VOLUMES, self._measured)

    def _check(self, key: str, name: str) -> None:
        """Remember why a final label cannot be used, if it cannot."""
        found = {each: fault for each, fault in self._faults.items() if each != name}
        try:
            if (item := self._study.final_label(name)) is not None:
                self._study.check(item)
        except UserError as error:
            if error.status >= 500 or error.status == 409:  # it may be usable once it can be fetched
                return
            found[name] = {"of": key, "why": str(error)}
        if found != self._faults:
            self._faults = found
            _write(self._folder / _FAULTS, found)

    def _label(self, name: str, tag: str, scan: Volume) -> np.ndarray | None:
        """The label; a scan is shown without one that cannot be used."""
        try:
            return self._study.read_stored(name, tag, scan)
        except UserError as error:
            logger.info("The picture of %s is without its label: %s", name, error)
            return None

    def _prune(self) -> None:
        """Delete the pictures that were made longest ago when there are too many bytes."""
        files = [(path.stat().st_mtime, path.stat().st_size, path) for path in self._folder.glob("*/*.jpg")]
        size = sum(each[1] for each in files)
        for _, length, path in sorted(files):
            if size <= MOST_BYTES:
                return
            path.unlink(missing_ok=True)
            size -= length


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, notes: Mapping[str, Any]) -> None:
    text = json.dumps(notes)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, lambda whole: Path(whole).write_text(text, encoding="utf-8"))
