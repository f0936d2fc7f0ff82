"""A job by several processes of this machine, each on a GPU of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from server.options import is_true

from .system_processes import SERVER, born

PROCESSES = "SEMISAM_PROCESSES"
"""Environment variable: how many processes a job with ``multi_gpu`` has on the CPU."""

_APP = Path(__file__).resolve().parents[2]
_LAUNCHER = Path(__file__).resolve().with_name("launcher.py")


def processes(request: Mapping[str, Any], device: str) -> int:
    """How many processes a request asks for.

    Args:
        request: may have ``multi_gpu``.
        device: ``cpu`` or ``cuda[:n]``, where the job works.
    """
    if not is_true(request.get("multi_gpu", False)):
        return 1
    if device.startswith("cuda"):
        count = torch.cuda.device_count()
    else:
        text = os.environ.get(PROCESSES, "1")
        count = int(text) if text.isdecimal() else 1
    return max(1, count)


def launch(count: int, command: str, request: Mapping[str, Any], more: Sequence[str] = ()) -> int:
    """Run a command of ``main.py`` in ``count`` processes until it ends; they end with this one.

    The environment tells them the study and the settings, as the server has put them there.

    Args:
        count: how many.
        command: ``train`` or ``score``.
        request: the request.
        more: further words of the command line.

    Returns:
        The exit status.
    """
    words = [sys.executable, str(_LAUNCHER), "--standalone", f"--nproc-per-node={count}"]
    words += [str(_APP / "main.py"), command, "--request", json.dumps(dict(request)), *more]
    return subprocess.run(words, env=_environment(count), check=False).returncode


def _environment(count: int) -> dict[str, str]:
    """This process's environment, and what the launcher and its processes need to know."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // count)), **os.environ}
    environment[SERVER] = f"{os.getpid()} {born(os.getpid()) or 0.0}"
    if sys.platform == "linux":  # names of hosts in hospitals need not lead anywhere
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment
