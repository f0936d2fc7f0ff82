"""Scoring that the server has started by itself makes way for a person's job, whatever it is doing at that moment."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monailabel.utils.async_tasks import utils

from server.jobs.automatic_scoring import AutomaticScoring
from server.jobs.process import Jobs
from server.jobs.records import SCORING
from server.jobs.system_processes import born
from server.requests.validation import running
from server.upstream import background_jobs


class SlowlyNoticed(subprocess.Popen[str]):
    """A process whose end is noticed late, as on a busy machine."""

    noticed = threading.Event()

    def wait(self, timeout: float | None = None) -> int:
        status = super().wait(timeout)
        self.noticed.wait(30)
        return status


class Started:
    """An automatic scoring, and the parts of its start."""

    def __init__(self, place: Path) -> None:
        self.jobs = Jobs(place, lambda: place)
        self.scoring = AutomaticScoring()
        self.task: dict[str, Any] = {
            "id": "1",
            "status": "SUBMITTED",
            "request": {},
            "start_ts": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self.thread = threading.Thread(target=self.jobs.run, args=(self.task, SCORING))
        self.opened = threading.Event()
        self.may_open = threading.Event()
        self.processes: list[SlowlyNoticed] = []

    def open_process(self, method: str, request: Any) -> tuple[subprocess.Popen[str], str]:
        """As MONAI Label's, when it may."""
        self.opened.set()
        self.may_open.wait(30)
        words = [sys.executable, "-c", "import time; time.sleep(60)"]
        self.processes.append(SlowlyNoticed(words, stdout=subprocess.PIPE, text=True))
        return self.processes[-1], "a script"


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    for known in (utils.background_tasks, utils.background_processes):
        known.clear()
    found = Started(tmp_path)
    SlowlyNoticed.noticed.clear()
    monkeypatch.setattr("server.upstream.background_jobs.open_process", found.open_process)

    def start(kind: str, request: Any) -> tuple[dict[str, Any], None]:
        utils.background_processes.setdefault(kind, {})
        utils.background_tasks.setdefault(kind, []).append(found.task)
        return found.task, None

    monkeypatch.setattr("server.upstream.background_jobs.start", start)
    found.scoring.start(["uncertainty"])
    yield found
    SlowlyNoticed.noticed.set()
    found.may_open.set()
    if found.thread.ident is not None:
        found.thread.join(30)
    for known in (utils.background_tasks, utils.background_processes):
        known.clear()


def next_job_is_taken() -> bool:
    """Whether a person's scoring would start: neither we nor MONAI Label see one that runs."""
    return running(SCORING) is None and not background_jobs.processes(SCORING)


def test_while_it_runs(started: Started) -> None:
    started.may_open.set()
    started.thread.start()
    until = time.monotonic() + 30
    while started.task["status"] != "RUNNING" and time.monotonic() < until:
        time.sleep(0.01)
    assert not next_job_is_taken()
    started.scoring.give_way(started.jobs)
    assert next_job_is_taken()
    assert born(started.processes[0].pid) is None
    SlowlyNoticed.noticed.set()
    started.thread.join(30)
    assert started.task["status"] == "STOPPED"


def test_while_it_waits(started: Started) -> None:
    assert not next_job_is_taken()
    started.scoring.give_way(started.jobs)
    assert next_job_is_taken()
    started.may_open.set()
    started.thread.start()
    started.thread.join(30)
    assert started.processes == []
    assert started.task["status"] == "STOPPED"


def test_while_its_process_is_being_started(started: Started) -> None:
    started.thread.start()
    assert started.opened.wait(30)
    person = threading.Thread(target=started.scoring.give_way, args=(started.jobs,))
    person.start()
    person.join(0.2)
    started.may_open.set()
    person.join(30)
    assert next_job_is_taken()
    assert born(started.processes[0].pid) is None


def test_a_persons_own_scoring_stays(started: Started) -> None:
    other: dict[str, Any] = {**started.task, "id": "2"}
    utils.background_tasks[SCORING].append(other)
    started.scoring.give_way(started.jobs)
    assert (started.task["status"], other["status"]) == ("STOPPED", "SUBMITTED")
    started.scoring.give_way(started.jobs)
    assert other["status"] == "SUBMITTED"
