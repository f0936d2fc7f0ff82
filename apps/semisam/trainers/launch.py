"""A training by several processes of this machine, each on a GPU of its own."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adapters.options import is_true
from lib.errors import UserError
from lib.recipes import RecipeOptions
from lib.recipes.options import NNUNET

PROCESSES = "SEMISAM_PROCESSES"
"""Variable of the environment: processes of a training with ``multi_gpu`` on the CPU."""

_APP = Path(__file__).resolve().parents[1]
_DIE_WITH_PARENT = 1


def processes(request: Mapping[str, Any], options: RecipeOptions) -> int:
    """How many processes a request asks for.

    Raises:
        UserError: (409) when nnU-Net is to be trained by several.
    """
    if not is_true(request.get("multi_gpu", False)):
        return 1
    if options.device.startswith("cuda"):
        count = torch.cuda.device_count()
    else:
        text = os.environ.get(PROCESSES, "1")
        count = int(text) if text.isdecimal() else 1
    if count > 1 and options.network == NNUNET:
        raise UserError("multi_gpu: nnU-Net trains on one GPU. Switch multi_gpu off, or choose another network.")
    return max(1, count)


def launch(count: int, request: Mapping[str, Any]) -> int:
    """Run ``main.py train`` in ``count`` processes until it ends; they end with this one.

    The study and the settings go along in the environment, as the server has put them there.

    Returns:
        The exit status.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += [str(_APP / "main.py"), "train", "--request", json.dumps(dict(request))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // count)), **os.environ}
    linux = sys.platform == "linux"
    if linux:  # names of hosts in hospitals need not lead anywhere
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return subprocess.run(command, env=environment, check=False, preexec_fn=_follow if linux else None).returncode


def _follow() -> None:
    """End this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
