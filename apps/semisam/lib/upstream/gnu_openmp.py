"""OpenMP threads that wait asleep, although OpenMP was loaded to let them spin.

- Package: GNU's OpenMP (libgomp) of GCC 9 to 15, which PyTorch and others bring.
- Wrong: it reads ``OMP_WAIT_POLICY`` once, when it is loaded, and has no function to change it later. Without it, a
  thread that waits for the others of its team spins for some milliseconds, thousands of times in an answer: harmless on
  an idle machine, and ruinous beside a training that wants the same cores.
- Done: it spins a hundred rounds instead of 300,000 as soon as a process has more of its threads than there are cores
  (``gomp_throttled_spin_count_var``). So one thread of ours keeps a team of that many, which sleeps for ever.
- Source: https://github.com/gcc-mirror/gcc/blob/master/libgomp/config/linux/wait.h
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import threading
from pathlib import Path

log = logging.getLogger("semisam.openmp")

_MAPS = Path("/proc/self/maps")
_LIBRARY = re.compile(r"libgomp[^/]*\.so[^/]*")
_NAME = "semisam-openmp"
_SECONDS = 10.0


def wait_asleep() -> bool:
    """Let the threads of every OpenMP that is loaded in this process sleep while they wait, from now on.

    Returns:
        Whether this process has such an OpenMP; only GNU's on Linux is known.
    """
    found = _loaded()
    running = {thread.name for thread in threading.enumerate()}
    for path in found:
        name = f"{_NAME} {path}"
        if name not in running:
            _keep_team(path, name)
    return bool(found)


def _loaded() -> list[str]:
    """Paths of the libgomps in this process: torch and others bring one each."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    paths = {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if _LIBRARY.fullmatch(os.path.basename(path)))


def _keep_team(path: str, name: str) -> None:
    """Start a thread that has a team of one thread more than there are cores, and keeps it."""
    cores = len(os.sched_getaffinity(0))
    made = threading.Event()

    def keep() -> None:
        try:
            library, system = ctypes.CDLL(path), ctypes.CDLL(None)
            # Each thread of the team calls a function of C that does nothing: none may be Python's.
            nothing = ctypes.cast(system.getpid, ctypes.c_void_p)
            library.GOMP_parallel(nothing, None, ctypes.c_uint(cores + 1), ctypes.c_uint(0))
        except (OSError, AttributeError) as error:
            log.warning("Waiting threads may slow other programs down; start with OMP_WAIT_POLICY=PASSIVE (%s)", error)
            return
        finally:
            made.set()
        threading.Event().wait()  # the team ends with the thread that has made it

    threading.Thread(target=keep, daemon=True, name=name).start()
    made.wait(_SECONDS)
