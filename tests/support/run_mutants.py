"""Make each mutant of `mutants.py` in a copy of the app, and see whether a test fails: `make mutants`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mutants import APP, MUTANTS, ROOT, Mutant, problems

SECONDS = 300
"""After which a mutant whose tests still run counts as noticed: by a test that hangs."""
WORDS = {0: "SURVIVED", 1: "killed"}


@dataclass(frozen=True)
class Place:
    """A copy of app and tests, which one mutant after the other is made in.

    Args:
        folder: where it lies.
    """

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Place:
        """Make the copy."""
        left_out = shutil.ignore_patterns("model", "logs", "bin")
        for name in ("apps", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        shutil.copy(ROOT / "pyproject.toml", folder)
        return cls(folder)

    def make(self, mutant: Mutant) -> None:
        """Put the mutant in."""
        file = self.folder / APP / mutant.file
        file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")

    def restore(self, mutant: Mutant) -> None:
        """Take it out again; with the file's old time its compiled module counts again."""
        shutil.copy2(ROOT / APP / mutant.file, self.folder / APP / mutant.file)

    def tests(self, names: Sequence[str]) -> None:
        """Run tests, up to the first that fails, and end this process with pytest's status."""
        os.setsid()
        os.chdir(self.folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.path[:] = [path for path in sys.path if path and not Path(path).is_relative_to(ROOT / "tests")]
        sys.modules.pop("mutants", None)
        import pytest

        options = ["-q", "-x", "-p", "no:cacheprovider", "--no-header", "-W", "ignore"]
        status = int(pytest.main([*options, *(f"tests/{name}" for name in names)]))
        sys.stdout.flush()
        os._exit(status)


@dataclass(frozen=True)
class Job:
    """Tests that run.

    Args:
        mutant: with this mutant; None for the app as it is.
        place: in this copy.
        process: in this process.
        begun: since then.
    """

    mutant: Mutant | None
    place: Place
    process: BaseProcess
    begun: float

    @classmethod
    def start(cls, mutant: Mutant | None, place: Place, tests: Sequence[str]) -> Job:
        """Make the mutant and start its tests, in a fork of this process: torch is imported already."""
        if mutant is not None:
            place.make(mutant)
        process = multiprocessing.get_context("fork").Process(target=place.tests, args=(tests,))
        process.start()
        return cls(mutant, place, process, time.monotonic())

    def end(self) -> bool:
        """Print what came of it and make room for the next; whether all is well."""
        hangs = self.process.exitcode is None
        if hangs and self.process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        status = self.process.exitcode or 0
        seconds = time.monotonic() - self.begun
        if self.mutant is None:
            well, word = status == 0, "pass" if status == 0 else f"FAIL ({status})"
            line = "(the app as it is)"
        else:
            well = hangs or status == 1
            word = "killed: a test hangs" if hangs else WORDS.get(status, f"ERROR: pytest ended with {status}")
            line = f"{self.mutant.name:26} {self.mutant.why}"
            self.place.restore(self.mutant)
        print(f"{word:10} {seconds:4.0f} s  {line}", flush=True)
        if not well and (self.mutant is None or status != 0):
            print((self.place.folder / "log.txt").read_text(errors="replace")[-3000:], flush=True)
        return well


def run(mutants: Sequence[Mutant], processes: int) -> int:
    """Make the mutants, a few at a time.

    Returns:
        How many were not noticed; tests that fail for the app as it is count as one.
    """
    import monai  # noqa: F401 -- imported once for all
    import scipy.ndimage  # noqa: F401

    sys.dont_write_bytecode = True
    os.environ.update(PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    everything = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    todo: list[Mutant | None] = [None, *mutants]
    running: list[Job] = []
    bad = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        free = [Place.at(Path(folder) / str(number)) for number in range(processes)]
        while todo or running:
            while todo and free:
                mutant = todo.pop(0)
                running.append(Job.start(mutant, free.pop(), everything if mutant is None else mutant.tests))
            wait([job.process.sentinel for job in running], timeout=1)
            for job in list(running):
                if job.process.is_alive() and (job.mutant is None or time.monotonic() - job.begun < SECONDS):
                    continue
                bad += not job.end()
                running.remove(job)
                free.append(job.place)
    return bad


def main() -> None:
    """Make all mutants, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutants (default: all)")
    parser.add_argument("--processes", type=int, default=2, help="at a time (default: 2)")
    arguments = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not arguments.names or mutant.name in arguments.names]
    stale = problems(chosen)
    for text in stale:
        print(f"STALE      {text}")
    if stale or not chosen:
        sys.exit("Put the list in tests/support/mutants.py right." if stale else "There is no such mutant.")
    begun = time.monotonic()
    bad = run(chosen, arguments.processes)
    print(f"{len(chosen)} mutants in {time.monotonic() - begun:.0f} s, {bad} not noticed")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
