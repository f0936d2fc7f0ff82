"""Waiting threads sleep although nobody has said so before torch was loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_study import ROOT

SCRIPT = """
import ctypes, os, sys, threading, time
sys.path.insert(0, sys.argv[1])
import torch
from lib.upstream.gnu_openmp import _loaded, wait_asleep
library = next(line.split()[-1] for line in open("/proc/self/maps") if "/libgomp" in line)
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: time.sleep(0.05 if threading.get_ident() == me else 0))
me = threading.get_ident()
parallel = ctypes.CDLL(library).GOMP_parallel
def cpu_seconds():
    parallel(function, None, 2, 0)
    before = time.process_time()
    for _ in range(20):  # the other thread waits 50 ms for this one each time
        parallel(function, None, 2, 0)
    return time.process_time() - before
spinning = cpu_seconds()
assert wait_asleep() and wait_asleep()
assert sum(t.name.startswith("semisam-openmp") for t in threading.enumerate()) == len(_loaded())
print(spinning, cpu_seconds())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not Path("/proc/self/maps").is_file(), reason="GNU's OpenMP on Linux")
def test_threads_that_wait_take_no_time_from_others() -> None:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    words = [sys.executable, "-c", SCRIPT, str(ROOT / "apps" / "semisam")]
    said = subprocess.run(words, env=plain, capture_output=True, text=True, check=True).stdout
    spinning, asleep = (float(seconds) for seconds in said.split())
    assert asleep < 0.5 * spinning
