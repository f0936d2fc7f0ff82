"""The server's side of its jobs: it starts them, reads what they print, says how they ended, and ends them with itself.

In the place of MONAI Label's own way, see ``server.upstream.background_jobs``.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from lib.core.errors import UserError
from server.upstream import background_jobs
from server.upstream.background_jobs import Task

from .other_servers import note_server
from .records import (
    BATCH,
    ENDED_WITH_SERVER,
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
_READ_SECONDS = 3.0
_GRACE_SECONDS = 3.0
_TIME = "%Y-%m-%d %H:%M:%S"
_WAITING, _RUNNING, _STOPPED = "SUBMITTED", "RUNNING", "STOPPED"
"""States of a job, as MONAI Label calls them."""


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
        self._changing = threading.Lock()
        """Held while a job is started or stopped: nobody stops a job that is half started."""

    def install(self) -> None:
        """Run and stop jobs in MONAI Label's place, and end with this process."""
        lead_jobs()
        background_jobs.install(self.run, self.stop)
        note_server(self._records)
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

    def run(self, task: Task, method: str, callback: Callable[[Any], None] | None = None) -> None:
        """Run a job to its end; called in a thread of its own."""
        task["details"] = deque(maxlen=_LINES)
        before = kills_for_memory()
        with self._changing:
            if self._ending or task["status"] == _STOPPED:
                task.update(status=_STOPPED, end_ts=_now())
                return
            process, words = background_jobs.open_process(method, task["request"])
            logger.info("COMMAND:: %s", words)
            background_jobs.note_process(method, task, process)
            self._note(method, process.pid)
            task["status"] = _RUNNING
        reader = threading.Thread(target=_read_output, args=(process, task, method), daemon=True)
        reader.start()
        process.wait()
        reader.join(_READ_SECONDS)  # a process that the job has left behind may hold on to its output
        background_jobs.note_process(method, task, None)
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

    def _tell_end(self, task: Task, method: str, process: subprocess.Popen[str], before: int) -> None:
        """Say it when a job has ended without a word: in the status, in the log, and for the statistics."""
        record = self._records.of(method, process.pid)
        stopped = task["status"] == _STOPPED
        code = process.returncode
        if record is None and code >= 0 and not stopped:
            return  # it has said itself how it ended
        ended = why(code, list(task["details"]), before, stopped=stopped, ending=self._ending)
        if code >= 0 and not ended:
            if record is not None:
                self._records.remove(record)  # it has ended before it was under way
            return
        if record is not None:
            self._records.note_end(record, ended)
        text = self._sentence(method, ended)
        logger.log(logging.INFO if stopped else logging.ERROR, "%s", text)
        task["details"].append(text)

    def stop(self, method: str, job: str | None = None) -> Task | None:
        """Stop the running job of a kind; another one can start at once.

        Args:
            method: the kind.
            job: its id, if no other one is to be stopped.

        Returns:
            The job, None when none runs.
        """
        with self._changing:
            running = background_jobs.processes(method)
            tasks = [task for task in background_jobs.tasks(method) if task["id"] in running]
            task = next((task for task in tasks if job in (None, task["id"])), None)
            if task is None:
                return None
            task.update(status=_STOPPED, end_ts=_now())  # first, so that its end is not taken for an accident
        end_tree([running[task["id"]].pid])
        # Its thread does so, too, but only once it has seen the end: until then MONAI Label would refuse the next job.
        background_jobs.note_process(method, task, None)
        logger.info("The %s was stopped", NAMES.get(method, method))
        return dict(task)

    def withdraw(self, method: str, job: str) -> None:
        """Stop a job that runs; one that waits or is about to start does not start."""
        with self._changing:
            for task in background_jobs.tasks(method):
                if task["id"] == job and task["status"] == _WAITING:
                    task.update(status=_STOPPED, end_ts=_now())
        self.stop(method, job)

    # --- all jobs -------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """End all jobs, because this server ends."""
        self._ending = True
        pids = [process.pid for process in background_jobs.all_processes()]
        end_tree(pids)
        for record in [self._records.of(kind, pid) for kind in (TRAIN, BATCH, SCORING) for pid in pids]:
            # Not left to the threads of the jobs: this process may be gone before them, and in a container that is made
            # anew the next server cannot see that their processes are.
            if record is not None and not record.ended:
                with suppress(OSError):
                    self._records.note_end(record, ENDED_WITH_SERVER)

    @property
    def ending(self) -> bool:
        """Whether this server is about to end."""
        return self._ending

    def elsewhere(self, method: str) -> JobRecord | None:
        """A job of this kind that somebody else has started on the same study, if there is one."""
        own = {process.pid for process in background_jobs.processes(method).values()}
        return next((record for record in self._records.running(method) if record.pid not in own), None)

    def check_elsewhere(self, method: str) -> None:
        """Raise UserError (409) when somebody else has started a job of this kind on the same study, and it runs."""
        other = self.elsewhere(method)
        if other is not None:
            raise UserError(
                f"A {NAMES[method]} of this study runs since {other.started} as process {other.pid} on {other.host}; "
                "another server or a command line has started it. Wait for its end, or stop it there.",
                status=409,
            )

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
    background_jobs.list_as_last(kind, {**task, "details": deque([text], maxlen=_LINES)})


def _read_output(process: subprocess.Popen[str], task: Mapping[str, Any], method: str) -> None:
    log = logging.getLogger(f"task_{method}")
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            if text := line.rstrip():
                log.info(text)
                task["details"].append(text)


def _now() -> str:
    return datetime.today().strftime(_TIME)
