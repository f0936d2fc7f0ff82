"""What has to be right for the server to work.

Nothing that is said here names a scan, a patient, a folder or a host: everybody who reaches the server may read it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from lib.core.errors import UserError
from lib.generalists import check_generalist
from server.dicomweb.datastore import DicomWebStudy
from server.jobs.records import BATCH, NAMES, SCORING, TRAIN
from server.requests.validation import running
from server.store.folder_store import StudyDatastore
from server.store.study import Study

LEAST_FREE = 2**30
"""Bytes that must be free where labels and models are written."""
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: of the thing.
        good: whether it is as it should be.
        text: how it is.
        needed: whether the server cannot work without it.
    """

    name: str
    good: bool
    text: str
    needed: bool = True


@dataclass(frozen=True)
class Health:
    """Whether the server can work.

    Args:
        checks: what was looked at.
    """

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """Whether all that is needed is as it should be."""
        return all(check.good for check in self.checks if check.needed)

    def to_json(self) -> dict[str, object]:
        """For the answer."""
        listed = {each.name: {"ok": each.good, "needed": each.needed, "text": each.text} for each in self.checks}
        return {"status": "ready" if self.ready else "not ready", "checks": listed}


def health_of(study: Study, killed: Mapping[str, str]) -> Health:
    """Look at everything; takes milliseconds, and asks no other server.

    Args:
        study: the study.
        killed: kinds of jobs that ended without a word.
    """
    looks: tuple[Callable[[], Iterator[Check]], ...] = (
        lambda: _study(study),
        lambda: _disk(study),
        _device,
        lambda: _weights(study),
        lambda: _jobs(study, killed),
    )
    return Health(tuple(check for look in looks for check in look()))


def _folder(study: Study) -> Path:
    """Where labels are written: the study's folder, or the cache of one on a DICOM server."""
    store = study.datastore
    return store.folder if isinstance(store, StudyDatastore) else study.place


def _study(study: Study) -> Iterator[Check]:
    folder, store = _folder(study), study.datastore
    what = "cache" if isinstance(store, DicomWebStudy) else "folder"
    readable = folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)
    yield Check(
        "study", readable, f"the study's {what} can be read" if readable else f"the study's {what} cannot be read"
    )
    read_only = isinstance(store, StudyDatastore) and store.read_only
    places = [each for each in (folder, folder / "labels", folder / "labels" / "final") if each.is_dir()]
    writable = bool(places) and all(os.access(each, os.W_OK) for each in places)
    if read_only:
        yield Check("labels", True, "the study is served for reading only")
    else:
        yield Check("labels", writable, "labels can be written" if writable else "labels cannot be written")


def _disk(study: Study) -> Iterator[Check]:
    for name, folder in (("disk of the study", _folder(study)), ("disk of the models", study.place)):
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        try:
            free = shutil.disk_usage(there).free
        except OSError:
            yield Check(name, False, "it cannot be looked at")
            continue
        yield Check(name, free >= LEAST_FREE, f"{free / _GIB:.1f} GiB are free")


def _device() -> Iterator[Check]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield Check("device", True, f"{count} GPU(s)" if count else "CPU only", needed=False)


def _weights(study: Study) -> Iterator[Check]:
    missing = []
    for name in study.settings.generalists:
        try:
            check_generalist(name, study.settings.weights_folder)
        except UserError:
            missing.append(name)
    text = f"missing: {', '.join(missing)}" if missing else f"there: {', '.join(study.settings.generalists)}"
    yield Check("weights", not missing, text, needed=False)


def _jobs(study: Study, killed: Mapping[str, str]) -> Iterator[Check]:
    at_work = [NAMES[kind] for kind in (TRAIN, BATCH, SCORING) if running(kind)]
    ended = [NAMES.get(kind, kind) for kind in killed]
    text = f"ended without a word: {', '.join(ended)}" if ended else f"at work: {', '.join(at_work) or 'none'}"
    yield Check("jobs", not ended, text, needed=False)
    trained = "no training has finished yet"
    if study.published.is_file():
        moment = datetime.fromtimestamp(study.published.stat().st_mtime, timezone.utc)
        trained = f"the network in service is of {moment:%Y-%m-%d %H:%M} UTC"
    yield Check("training", True, trained, needed=False)
