"""Jobs keep the memory they have freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tiny_study import ROOT

APP = ROOT / "apps" / "semisam"
PROGRAM = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import torch
from lib.core.allocator import keep_freed_memory
def churn():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(24_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
churn()
plain = churn()
if not keep_freed_memory():
    sys.exit(3)
churn()
print(plain, churn())
"""


@pytest.mark.slow
def test_a_block_that_is_freed_and_asked_for_again_is_not_filled_by_the_system_again() -> None:
    words = [sys.executable, "-c", PROGRAM, str(APP)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    if done.returncode == 3:
        pytest.skip("this C library has no such switch")
    plain, kept = (int(count) for count in done.stdout.split())
    assert kept < 0.1 * plain
