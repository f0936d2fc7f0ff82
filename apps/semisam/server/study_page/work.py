"""The work on the study: what runs and waits, how far it is, how the last one ended, what the machine has left."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil  # type: ignore[import-untyped]
import torch

from lib.core.cache import Recent, stamp_of
from lib.core.errors import UserError
from lib.core.json_files import read_json
from lib.report.history import History
from lib.report.page import charts_of
from server.jobs.process import Jobs
from server.jobs.records import TRAIN
from server.store.study import Study
from server.upstream import background_jobs
from server.upstream.background_jobs import Task
from server.web.reports import address

from .help_texts import CARRY, OPTIONS
from .progress import KINDS, failure, in_words, of_last, plain_line, progress_of

_BUSY = ("SUBMITTED", "RUNNING")
_TOLD = (
    *("epoch", "total_epochs", "round", "rounds", "stage", "best_metric", "seconds_left"),
    *("recipe", "preset", "message", "report", "start_ts", "current_time"),
)
_RUN = re.compile(r"run-[0-9]{8}-[0-9]{6}-[0-9]+")
_STYLE = (
    "<style>svg{font:11px system-ui,sans-serif;background:#fff}.grid{stroke:#e4e4e4}"
    ".mark{stroke:#bbb;stroke-dasharray:3 3}</style>"
)
_DETAILS = 20


class Trainer(Protocol):
    """What is asked of the trainer."""

    def config(self) -> dict[str, Any]:
        """Its options with their defaults."""

    def stats(self) -> dict[str, Any]:
        """Where the last training stands."""


class Work:
    """The work on a study.

    Args:
        study: the study.
        trainer: its trainer.
        jobs: the jobs of this server.
    """

    def __init__(self, study: Study, trainer: Trainer, jobs: Jobs | None) -> None:
        self._study = study
        self._trainer = trainer
        self._jobs = jobs
        self._charts: Recent[Mapping[str, str]] = Recent(8)
        self._machine: tuple[float, dict[str, Any]] = -1e9, {}
        self._starting = threading.Lock()

    # --- looking --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All of it, as plain types."""
        stats = self._trainer.stats()
        training = of_last({key: stats[key] for key in _TOLD if key in stats}, background_jobs.tasks(TRAIN))
        killed = self._jobs.killed() if self._jobs is not None else {}
        return {
            "jobs": {kind: self._kind(kind, training, killed.get(kind, "")) for kind in KINDS},
            "training": training,
            "machine": self.machine(),
        }

    def _kind(self, kind: str, training: Mapping[str, Any], killed: str) -> dict[str, Any]:
        tasks = background_jobs.tasks(kind)
        busy = [task for task in tasks if task["status"] in _BUSY]
        now = next((task for task in busy if task["status"] == "RUNNING"), busy[0] if busy else None)
        last = now or (tasks[-1] if tasks else None)
        lines = [plain_line(str(line)) for line in (last or {}).get("details") or ()][-_DETAILS:]
        other = self._jobs.elsewhere(kind) if self._jobs is not None and now is None else None
        state: dict[str, Any] = {
            "name": KINDS[kind],
            "status": "" if last is None else last["status"],
            "id": "" if now is None else now["id"],
            "words": "",
            "since": "" if last is None else last["start_ts"],
            "asked": {} if last is None else _asked(last["request"]),
            "waiting": [_asked(task["request"]) for task in busy if task is not now],
            "log": lines,
            "elsewhere": "" if other is None else f"It runs since {other.started} on {other.host}, started elsewhere.",
            "failure": failure(kind, last, lines, training) or killed,
        }
        if now is not None:
            training = training if now["status"] == "RUNNING" else {}
            state |= progress_of(kind, lines, training)
            state["words"] = in_words(state, training if kind == TRAIN else None)
        return state

    def options(self) -> list[dict[str, Any]]:
        """The options of a training: values, the default, and what each means."""
        found = []
        for name, value in self._trainer.config().items():
            choices = [str(each) for each in value] if isinstance(value, list) else []
            kind = "choice" if choices else "switch" if isinstance(value, bool) else "number"
            default = choices[0] if choices else value
            found.append(
                {"name": name, "kind": kind, "choices": choices, "default": default, "help": OPTIONS.get(name, "")}
            )
        return found

    def runs(self) -> list[dict[str, Any]]:
        """The trainings that are still on disk, the newest first, with their reports."""
        folders = [path for path in (self._study.folder / "runs").glob("run-*") if _RUN.fullmatch(path.name)]
        found = []
        for path in sorted(folders, key=lambda each: each.name, reverse=True):
            known, state = read_json(path / "run.json") or {}, read_json(path / "state.json") or {}
            options = known.get("options")
            report = path / "report.html"
            found.append(
                {
                    "name": path.name,
                    "started": _started(path.name),
                    "recipe": options.get("recipe", "") if isinstance(options, dict) else "",
                    "preset": options.get("preset", "") if isinstance(options, dict) else "",
                    "round": state.get("finished_round"),
                    "finished": bool(state.get("finished")),
                    "report": address(report) if report.is_file() else "",
                    "curves": list(self._drawn(path)),
                }
            )
        return found

    def curve(self, run: str, metric: str) -> str:
        """The course of a metric in a training, as an SVG file.

        Raises:
            UserError: (404) when there is none.
        """
        path = self._study.folder / "runs" / run
        drawn = self._drawn(path).get(metric) if _RUN.fullmatch(run) else None
        if drawn is None:
            raise UserError("There is no such curve.", status=404)
        return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{_STYLE}", 1)

    def _drawn(self, run: Path) -> Mapping[str, str]:
        file = run / "history.jsonl"
        return self._charts.get(stamp_of(file), lambda: charts_of(History(file).read()))

    def machine(self) -> dict[str, Any]:
        """GiB free and in all of disk, memory and GPUs; looked at every few seconds."""
        at, known = self._machine
        if time.monotonic() - at > 3:
            known = _machine(self._study.place)
            self._machine = time.monotonic(), known
        return known

    # --- starting and stopping ------------------------------------------------------------------------------------

    def start(self, kind: str, request: Mapping[str, Any]) -> Task:
        """Start a job, or let it wait for the running one of its kind.

        Args:
            kind: ``train``, ``batch_infer`` or ``scoring``.
            request: as MONAI Label takes it.

        Raises:
            UserError: (429) when too many wait.
            HTTPException: why it cannot be carried out.
        """
        with self._starting:
            task, refused = background_jobs.start(kind, request)
        if task is None:
            raise UserError(refused or "Too many wait already. Try again later.", status=429)
        return task

    def stop(self, kind: str, job: str) -> None:
        """Stop a job, or withdraw one that waits.

        Raises:
            UserError: (409) when it does not run any more.
        """
        known = {task["id"] for task in background_jobs.tasks(kind) if task["status"] in _BUSY}
        if self._jobs is None or job not in known:
            raise UserError("This job does not run any more.", status=409)
        self._jobs.withdraw(kind, job)


def carry_request(model: str) -> dict[str, Any]:
    """The request of a batch over all scans without a final label.

    Raises:
        UserError: for another model than ``CARRY`` names.
    """
    if model not in CARRY:
        raise UserError(f"model: choose one of {', '.join(CARRY)}.")
    return {"model": model, "images": "unlabeled", "max_workers": 1}


def _asked(request: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, as far as it tells one job from another."""
    return {key: request[key] for key in ("model", "method", "recipe", "preset", "images") if request.get(key)}


def _started(run: str) -> str:
    _, day, clock, _ = run.split("-")
    return f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:4]}"


def _machine(place: Path) -> dict[str, Any]:
    folder = place
    while not folder.exists():
        folder = folder.parent
    disk, memory = shutil.disk_usage(folder), psutil.virtual_memory()
    gpus = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        gpus.append({"name": torch.cuda.get_device_name(number), "memory": [_gigabytes(free), _gigabytes(total)]})
    return {
        "disk": [_gigabytes(disk.free), _gigabytes(disk.total)],
        "memory": [_gigabytes(memory.available), _gigabytes(memory.total)],
        "gpus": gpus,
    }


def _gigabytes(count: float) -> float:
    return round(count / 2**30, 1)
