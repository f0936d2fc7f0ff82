"""Processes of this machine: whether one is still the same, and how a job ends, with its children."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil  # type: ignore[import-untyped]

SERVER = "SEMISAM_SERVER"
"""Variable of the environment of a job: number and start of the process that has started it."""

_NICE = 5
_LOOK_SECONDS = 0.5
_END_SECONDS = 5.0
_SAME_SECONDS = 1.0
_ENDED_BY = 128
"""A shell's way to say that a signal has ended a process."""

_server: tuple[int, float] = (0, 0.0)


def lower_priority() -> None:
    """Let the server go before this process, a job's; a busy machine must not bring the job to a halt."""
    if hasattr(os, "nice"):
        os.nice(max(0, _NICE - os.nice(0)))


def born(pid: int) -> float | None:
    """When a process was started, in seconds since the epoch; None when it has ended, noticed by its parent or not."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def is_same(pid: int, since: float) -> bool:
    """Whether a process is there, and the one that was started then: numbers are given again."""
    found = born(pid)
    return found is not None and abs(found - since) < _SAME_SECONDS


def namespace() -> str:
    """This machine, and where its process numbers count: containers may have numbers of their own."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {space}"


def end_tree(pids: Sequence[int]) -> None:
    """Kill processes and all that they have started but this one, and wait a moment until they are gone."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found.update({each.pid: each for each in [process, *process.children(recursive=True)]})
    found.pop(os.getpid(), None)
    for process in found.values():
        with suppress(psutil.Error):
            process.kill()
    until = time.monotonic() + _END_SECONDS
    # Not psutil's own wait: it would take the exit status from whoever has started them.
    while time.monotonic() < until and any(born(pid) is not None for pid in found):
        time.sleep(0.02)


# --- a job and its server ---------------------------------------------------------------------------------------------


def lead_jobs() -> None:
    """In a server: let the jobs that it starts know whose they are."""
    os.environ[SERVER] = f"{os.getpid()} {born(os.getpid()) or 0.0}"


def follow_server() -> None:
    """In a job: end with the server that has started it, however that ends, and take along what the job has started."""
    global _server  # noqa: PLW0603 (a process has one server)
    number, _, since = os.environ.pop(SERVER, "").partition(" ")  # processes of the job follow the job
    if not number.isdecimal() or int(number) == os.getpid():
        return
    _server = int(number), float(since or 0.0)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end_by)
    threading.Thread(target=_watch, args=(_server[0],), daemon=True, name="semisam-server").start()


def followed() -> tuple[int, float]:
    """The server that this process is a job of: number and start; zeros when it is none."""
    return _server


def _watch(server: int) -> None:
    pause = threading.Event()
    while os.getppid() == server:
        pause.wait(_LOOK_SECONDS)
    end_tree([os.getpid()])  # without a word: whoever would have read it is gone
    os._exit(_ENDED_BY + signal.SIGTERM)


def _end_by(number: int, frame: Any) -> None:
    end_tree([os.getpid()])
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
