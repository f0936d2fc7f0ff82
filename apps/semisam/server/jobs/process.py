"""The server's side of its jobs: it starts them, hears them out, says how they ended, and takes them along at its end.

MONAI Label 0.8.5 misses what a job prints in its last moment, writes the exit status of a killed one to its log only,
waits for the jobs before it ends, and leaves them running when it is killed itself.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from monailabel.utils.async_tasks import utils
from monailabel.utils.async_tasks.task import AsyncTask

from .records import (
    BATCH,
    NAMES,
    SCORING,
    STOPPED,
    TRAIN,
    JobRecord,
    JobRecords,
    kills_for_memory,
    last_round,
    sentence,
    why,
)
from .system_processes import born, end_tree, lead_jobs

logger = logging.getLogger("semisam.jobs")

_LINES = 20
_HEAR_SECONDS = 3.0
_GRACE_SECONDS = 3.0
_TIME = "%Y-%m-%d %H:%M:%S"
_RUNNING, _STOPPED = "RUNNING", "STOPPED"


class Jobs:
    """The jobs of this server.

    Args:
        place: the study's folder for what does not depend on its labels.
        runs: gives the study's folder of training runs.
    """

    def __init__(self, place: Path, runs: Callable[[], Path]) -> None:
        self._records = JobRecords(place)
        self._runs = runs
        self._ending = False

    def install(self) -> None:
        """Run and stop jobs in MONAI Label's place, and end with this process."""
        lead_jobs()
        utils._task_func = self.run
        AsyncTask.stop = staticmethod(self.stop)
        self._settle()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._end_before(number)

    def killed(self) -> dict[str, str]:
        """What there is to say of the last job of each kind that has ended without a word, by kind."""
        found = {kind: self._records.killed(kind) for kind in (TRAIN, BATCH, SCORING)}
        return {
            kind: f"Since {record.started}: {self._sentence(kind, record.ended)}"
            for kind, record in found.items()
            if record is not None and record.ended != STOPPED
        }

    def _sentence(self, kind: str, ended: str) -> str:
        return sentence(kind, ended, last_round(self._runs()) if kind == TRAIN else None)

    # --- one job --------------------------------------------------------------------------------------------------

    def run(self, task: dict[str, Any], method: str, callback: Callable[[Any], None] | None = None) -> None:
        """Run a job to its end; called in a thread of its own."""
        task["details"] = deque(maxlen=_LINES)
        if self._ending:
            task.update(status=_STOPPED, end_ts=_now())
            return
        before = kills_for_memory()
        process = _start(task["request"], method)
        utils.background_processes[method][task["id"]] = process
        self._note(method, process.pid)
        task["status"] = _RUNNING
        ears = threading.Thread(target=_hear, args=(process, task, method), daemon=True)
        ears.start()
        process.wait()
        ears.join(_HEAR_SECONDS)  # a process that the job has left behind may hold on to its output
        utils.background_processes[method].pop(task["id"], None)
        logger.info("Return code: %s", process.returncode)
        self._tell_end(task, method, process, before)
        task["end_ts"] = _now()
        if task["status"] == _RUNNING:
            task["status"] = "DONE" if process.returncode == 0 else "ERROR"
        if callback:
            callback(task)

    def _note(self, method: str, pid: int) -> None:
        try:
            self._records.begin(method, (os.getpid(), born(os.getpid()) or 0.0), pid)
        except OSError as error:
            logger.warning("The job could not be noted: %s", error)

    def _tell_end(self, task: dict[str, Any], method: str, process: subprocess.Popen[str], before: int) -> None:
        """Say it when a job has ended without a word: in the status, in the log, and for the statistics."""
        record = self._records.of(method, process.pid)
        stopped = task["status"] == _STOPPED
        if process.returncode >= 0 and not stopped:
            if record is not None:
                self._records.remove(record)  # it has ended before it was under way
            return
        ended = why(process.returncode, before, stopped=stopped, ending=self._ending)
        if record is not None:
            self._records.note_end(record, ended)
        text = self._sentence(method, ended)
        logger.log(logging.INFO if stopped else logging.ERROR, "%s", text)
        task["details"].append(text)

    def stop(self, method: str) -> dict[str, Any] | None:
        """Stop the running job of a kind; see ``AsyncTask.stop``."""
        running = dict(utils.background_processes.get(method) or {})
        for task in utils.tasks(method):
            process = running.get(task["id"])
            if process is not None:
                task.update(status=_STOPPED, end_ts=_now())  # first, so that its end is not taken for an accident
                end_tree([process.pid])
                logger.info("The %s was stopped", NAMES.get(method, method))
                return dict(task)
        return None

    # --- all jobs -------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End all jobs, because this server ends."""
        self._ending = True
        end_tree([process.pid for each in utils.background_processes.values() for process in each.values()])

    def elsewhere(self, method: str) -> JobRecord | None:
        """A job of this kind that somebody else has started on the same study, if there is one."""
        own = {process.pid for process in (utils.background_processes.get(method) or {}).values()}
        return next((record for record in self._records.running(method) if record.pid not in own), None)

    def _end_before(self, number: int) -> None:
        """End the jobs before whatever a signal does: the web server waits for its threads, and they for the jobs."""
        then = signal.getsignal(number)

        def handle(received: int, frame: Any) -> None:
            self.end()
            if callable(then):
                then(received, frame)
            else:
                signal.signal(received, signal.SIG_DFL)
                signal.raise_signal(received)

        signal.signal(number, handle)

    def _settle(self) -> None:
        """Look at what servers before this one have left: end their jobs that still run, tell of those that ended."""
        for kind in (TRAIN, BATCH, SCORING):
            orphans = [record for record in self._records.running(kind) if record.left_alone]
            if orphans:
                self._wait(orphans)
                still = [record.pid for record in orphans if self._records.runs(record)]
                if still:
                    logger.warning("A %s of a server that is gone still runs: it is ended", NAMES[kind])
                    end_tree(still)
            record = self._records.killed(kind)
            if record is not None:
                ended = record.ended or ("server" if record.left_alone else "")
                self._records.note_end(record, ended)
                text = self._sentence(kind, ended)
                logger.warning("Since %s: %s", record.started, text)
                _tell_of(kind, record, text)

    def _wait(self, records: list[JobRecord]) -> None:
        """Wait a moment for processes that have seen themselves that their server is gone."""
        until = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < until and any(self._records.runs(record) for record in records):
            time.sleep(0.1)


def _tell_of(kind: str, record: JobRecord, text: str) -> None:
    """Let a job of before be the last one in MONAI Label's list."""
    status = _STOPPED if record.ended == STOPPED else "ERROR"
    task = {"id": str(uuid.uuid4()), "status": status, "request": {}, "start_ts": record.started, "end_ts": _now()}
    utils.background_tasks.setdefault(kind, []).append({**task, "details": deque([text], maxlen=_LINES)})


def _start(request: Mapping[str, Any], method: str) -> subprocess.Popen[str]:
    """The process of a job, as MONAI Label starts it."""
    environment = dict(os.environ)
    gpus = str(request.get("gpus") or "all")
    if gpus != "all":
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    request = {**request, "gpus": "all"}
    if method == TRAIN:
        environment["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
        environment["MASTER_ADDR"] = "127.0.0.1"
        environment["MASTER_PORT"] = str(random.randint(1234, 1334))
    words = [sys.executable, "-m", "monailabel.interfaces.utils.app", "-m", method, "-r"]
    words.append(json.dumps(request, separators=(",", ":")))
    logger.info("COMMAND:: %s", " ".join(words))
    return subprocess.Popen(
        words, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True, errors="replace", env=environment
    )


def _hear(process: subprocess.Popen[str], task: Mapping[str, Any], method: str) -> None:
    log = logging.getLogger(f"task_{method}")
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            if text := line.rstrip():
                log.info(text)
                task["details"].append(text)


def _now() -> str:
    return datetime.today().strftime(_TIME)
