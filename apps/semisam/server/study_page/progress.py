"""How far a job is and how it ended, in words, from MONAI Label's record of it and the statistics of the training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from server.jobs.records import BATCH, SCORING, TRAIN
from server.upstream.background_jobs import Task

KINDS = {TRAIN: "Training", BATCH: "Batch", SCORING: "Scoring"}
_STOPPED = "STOPPED"
_ENDS = ("done", "failed", "stopped", "killed")
_PREFIX = re.compile(r"^\[[^\]]*\] (\[[^\]]*\] )*(\([^)]*\) - )?")
_STEP = re.compile(r"(\d+) of (\d+) scans.*?About ([\d.]+) (s|min) left")


def of_last(training: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """Where a training stands, unless that is still said of the one before: a full disk keeps what it had.

    Args:
        training: the statistics.
        tasks: trainings of this server, the last one last.
    """
    begun = [str(task["start_ts"]) for task in tasks if task["status"] not in ("SUBMITTED", _STOPPED)]
    since = str(training.get("start_ts") or "")
    return {} if begun and since and since < begun[-1] else dict(training)


def plain_line(line: str) -> str:
    """A line of a log without time, process and module."""
    return _PREFIX.sub("", line)


def progress_of(kind: str, lines: Sequence[str], training: Mapping[str, Any]) -> dict[str, Any]:
    """How far a job is, 0..1, and how many seconds are left; None where that is not known yet."""
    if kind == TRAIN:
        left = training.get("seconds_left")
        if not training.get("total_epochs") or training.get("stage") in ("starting", *_ENDS):
            return {"progress": None, "seconds_left": None}
        past = _seconds(str(training.get("current_time", "")))
        return {"progress": past / max(1.0, past + float(left or 0)), "seconds_left": left}
    for line in reversed(lines):
        found = _STEP.search(line)
        if found:
            left = float(found[3]) * (60 if found[4] == "min" else 1)
            return {"progress": int(found[1]) / max(1, int(found[2])), "seconds_left": left}
    return {"progress": None, "seconds_left": None}


def in_words(job: Mapping[str, Any], training: Mapping[str, Any] | None) -> str:
    """How far a job is: ``Training, round 1 of 2, 43 %, about 2:05 left``.

    Args:
        job: its name and status, and what ``progress_of`` tells of it.
        training: the statistics, if it is a training.
    """
    stage = None if training is None else str(training.get("stage") or "starting")
    if job["status"] == "SUBMITTED" or stage == "starting":
        return f"{job['name']} is being started"
    parts = [str(job["name"])]
    if training and training.get("rounds"):
        parts += [f"round {training.get('round')} of {training['rounds']}", str(stage)]
    if job["progress"] is not None:
        parts.append(f"{int(100 * job['progress'])} %")
    if job["seconds_left"]:
        parts.append(f"about {_clock(job['seconds_left'])} left")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    """``2:05``, or ``1:02:05``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _seconds(clock: str) -> float:
    """``1:02:03``, or ``2 days, 1:02:03``, in seconds."""
    days, _, rest = clock.rpartition(", ")
    parts = [float(part) for part in rest.split(":") if part.replace(".", "").isdecimal()]
    whole = sum(part * 60**place for place, part in enumerate(reversed(parts)))
    return whole + (86400 * float(days.split()[0]) if days else 0)


def failure(kind: str, task: Task | None, lines: Sequence[str], training: Mapping[str, Any]) -> str:
    """Why the last job of a kind has failed, in words; empty when it has not."""
    stage = training.get("stage") if kind == TRAIN else ""
    if task is None:
        return str(training.get("message", "")) if stage in ("failed", "killed") else ""
    if task["status"] != "ERROR":
        return ""
    if stage in ("failed", "killed") and training.get("message"):
        return str(training["message"])
    return next((line for line in reversed(lines) if line.strip()), f"{KINDS[kind]} has failed. The log has more.")
