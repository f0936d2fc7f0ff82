"""Which jobs of a study run, and which ended without a word: one small file each, beside the study's models.

A job that is killed says nothing, and nothing of what it wrote says that it is gone. Its file stays, and tells.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lib.core.devices import says_machine_full
from lib.core.files import write_whole
from lib.recipes.engine.run_folder import RunFolder

from .system_processes import born, is_same, namespace

logger = logging.getLogger("semisam.jobs")

TRAIN, BATCH, SCORING = "train", "batch_infer", "scoring"
SERVING = "server"
"""Not a job, but noted like one: the process that answers clients."""
NAMES = {TRAIN: "training", BATCH: "batch infer", SCORING: "scoring"}
ADVICE = {
    TRAIN: "Train again to go on",
    BATCH: "The labels made so far are stored: start it again for the others",
    SCORING: "What is scored is kept: score again to go on",
}
SMALLER = {
    TRAIN: "End other programs, choose the preset quick, or fewer processes",
    BATCH: "End other programs",
    SCORING: "End other programs",
}
"""What to do where memory does not suffice."""

STOPPED = "stopped"
"""Why a job ended: somebody has asked for it."""
ENDED_WITH_SERVER = "server"
"""Why a job ended: its server did."""
_MEMORY = "memory"
"""Why a job ended: the system has killed it, because memory ran out."""
_NO_MEMORY = "no memory"
"""Why a job ended: a library has ended it, because it got no memory."""

_ENDS = ("done", "failed", "killed", STOPPED)
SAY_SECONDS = 10.0
"""How often a job says that it is at work."""
_SILENT_SECONDS = 120.0
"""After how long a job of another machine is taken for dead."""
_FILE = re.compile(r"[a-z_]+-[0-9]+\.json")


@dataclass(frozen=True)
class JobRecord:
    """A job that has begun, and not ended in an orderly way.

    Args:
        kind: ``train``, ``batch_infer`` or ``scoring``, as MONAI Label calls it; or ``server``.
        pid: its process.
        born: when that process was started, seconds since the epoch: numbers are given again.
        host: its machine.
        names: where its number counts: machines, and containers with process numbers of their own.
        server: the process that has started it, 0 for a person at a command line.
        server_born: see ``born``.
        started: when it began, as people read it.
        ended: why it ended, as far as its server has seen it: ``stopped``, ``server``, ``memory``, ``no memory`` or a
            signal's number.
    """

    kind: str
    pid: int
    born: float
    host: str
    names: str
    server: int
    server_born: float
    started: str
    ended: str = ""

    @property
    def here(self) -> bool:
        """Whether its process can be seen from here."""
        return self.names == namespace()

    @property
    def left_alone(self) -> bool:
        """Whether the server that has started it is no longer there."""
        return bool(self.here and self.server and not is_same(self.server, self.server_born))


class JobRecords:
    """The records of a study's jobs.

    Args:
        place: the study's folder for what does not depend on its labels.
    """

    def __init__(self, place: Path) -> None:
        self._folder = place / "jobs"

    def begin(self, kind: str, server: tuple[int, float], pid: int) -> JobRecord:
        """Note that a process is a job, and forget those of its kind that are gone.

        Args:
            kind: see ``JobRecord``.
            server: number and start of the process that has started it.
            pid: its number.
        """
        known = self.of(kind, pid)
        if known is not None and known.here and is_same(pid, known.born):
            return known  # its server was faster
        for record in self.all(kind):
            if not self.runs(record):
                self.remove(record)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        record = JobRecord(kind, pid, born(pid) or 0.0, socket.gethostname(), namespace(), *server, started)
        self._write(record)
        return record

    def all(self, kind: str) -> list[JobRecord]:
        """All records of a kind, the oldest first; damaged ones are passed over."""
        found = [self._read(path) for path in self._folder.glob(f"{kind}-*.json") if _FILE.fullmatch(path.name)]
        return sorted((r for r in found if r is not None and r.kind == kind), key=lambda record: record.born)

    def of(self, kind: str, pid: int) -> JobRecord | None:
        """The record of a process."""
        return self._read(self._file(kind, pid))

    def runs(self, record: JobRecord) -> bool:
        """Whether a job is at work; one of another machine is as long as it says so, see ``still_runs``."""
        if record.here:
            return is_same(record.pid, record.born)
        try:
            said = self._file(record.kind, record.pid).stat().st_mtime
        except FileNotFoundError:
            return False
        return not record.ended and time.time() - said < _SILENT_SECONDS

    def still_runs(self, record: JobRecord) -> None:
        """Say for other machines that a job of this one is at work; to be called every ``SAY_SECONDS``."""
        os.utime(self._file(record.kind, record.pid))

    def keep_saying(self, record: JobRecord, end: threading.Event) -> None:
        """Call ``still_runs`` in a thread of its own until ``end`` is set."""

        def say() -> None:
            while not end.wait(SAY_SECONDS):
                with suppress(OSError):
                    self.still_runs(record)

        threading.Thread(target=say, daemon=True, name="semisam-job").start()

    def running(self, kind: str) -> list[JobRecord]:
        """The jobs of a kind that are at work, whoever has started them."""
        return [record for record in self.all(kind) if self.runs(record)]

    def killed(self, kind: str) -> JobRecord | None:
        """The last job of a kind, if it has ended without a word and no other has begun since."""
        found = self.all(kind)
        return found[-1] if found and not self.runs(found[-1]) else None

    def note_end(self, record: JobRecord, why: str) -> JobRecord:
        """Note why a job ended."""
        known = replace(record, ended=why)
        self._write(known)
        return known

    def remove(self, record: JobRecord) -> None:
        """Forget a job: it has ended as it should, and has said how."""
        self._file(record.kind, record.pid).unlink(missing_ok=True)

    def _file(self, kind: str, pid: int) -> Path:
        return self._folder / f"{kind}-{pid}.json"

    def _read(self, path: Path) -> JobRecord | None:
        try:
            return JobRecord(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            logger.warning("%s is passed over: %s", path, error)
            return None

    def _write(self, record: JobRecord) -> None:
        content = json.dumps(asdict(record))
        path = self._file(record.kind, record.pid)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda name: Path(name).write_text(content, encoding="utf-8"))


def sentence(kind: str, ended: str, rounds: int | None = None) -> str:
    """What a user is told about a job that ended without a word.

    Args:
        kind: see ``JobRecord``.
        ended: see ``JobRecord``.
        rounds: the last finished round of a training, None when there is none.
    """
    name, advice = NAMES[kind], ADVICE[kind]
    if kind == TRAIN and rounds is not None:
        advice = f"Finished rounds are kept. {advice} after round {rounds}"
    if ended == STOPPED:
        return f"The {name} was stopped. {advice}."
    if ended == ENDED_WITH_SERVER:
        return f"The {name} was ended together with its server. {advice}."
    if ended in (_MEMORY, _NO_MEMORY):
        how = "was killed by the system" if ended == _MEMORY else "has ended"
        return f"The memory of this machine does not suffice: the {name} {how}. {SMALLER[kind]}. {advice}."
    if ended.isdecimal():
        number = int(ended)
        known = {each.value: each.name for each in signal.Signals}.get(number, "unknown")
        by = "somebody, or the system for want of memory" if number == getattr(signal, "SIGKILL", 9) else "a signal"
        return f"The {name} was killed by {by} (signal {number}, {known}). {advice}."
    return f"The {name} ended without a word: it was killed, or this machine was switched off. {advice}."


def last_round(runs: Path) -> int | None:
    """The last finished round of the newest run in a study's folder of runs, None when there is none."""
    found = [path for path in runs.glob("run-*") if path.is_dir()]
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else RunFolder(newest).finished_round()


def true_stats(stats: dict[str, Any], place: Path, runs: Path) -> dict[str, Any]:
    """The statistics of a training as they are, when it could not say that it has ended.

    Args:
        stats: as the training has written them.
        place: see ``JobRecords``.
        runs: the study's folder of runs.
    """
    records = JobRecords(place)
    if records.running(TRAIN):
        return stats
    record = records.killed(TRAIN)
    over = not stats or stats.get("stage") in _ENDS
    if over and (record is None or record.started <= str(stats.get("start_ts", ""))):
        return stats
    ended = record.ended if record is not None else ""
    stage = STOPPED if ended == STOPPED else "killed"
    message = sentence(TRAIN, ended, last_round(runs))
    nothing = {"epoch": 0, "total_epochs": 1, "best_metric": 0.0}  # as viewers expect it
    return {**nothing, **stats, "stage": stage, "seconds_left": 0.0, "message": message}


def why(returncode: int, said: Iterable[str], kills_before: int, *, stopped: bool, ending: bool) -> str:
    """Why a process ended, see ``JobRecord.ended``; empty when nothing is known.

    Args:
        returncode: of the process.
        said: the last lines that it has printed.
        kills_before: what ``kills_for_memory`` said when it was started.
        stopped: whether somebody has asked for the end.
        ending: whether the server is about to end.
    """
    if stopped or ending:
        return STOPPED if stopped else ENDED_WITH_SERVER
    if returncode == -getattr(signal, "SIGKILL", 9) and kills_for_memory() > kills_before:
        return _MEMORY
    if (returncode > 0 or returncode == -signal.SIGABRT) and says_machine_full(said):
        return _NO_MEMORY
    return str(-returncode) if returncode < 0 else ""


def kills_for_memory() -> int:
    """How many processes the system has killed because memory ran out, 0 where it does not say so."""
    count = 0
    for file in ("/proc/vmstat", "/sys/fs/cgroup/memory.events"):
        try:
            lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            continue
        count += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return count
