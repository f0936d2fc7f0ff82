"""`make` with a Python that only writes down what it is asked: installations that break, two at once, odd folders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tiny_study import ROOT

PYTHON = """#!/bin/sh
# Stands for every Python: writes down how it is called; makes an environment that holds a copy of itself.
case "$*" in
  -c*) exit 0 ;;
  "-m venv "*) echo "venv" >> "$CALLS"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/bin/pip-is-here" ;;
  *pip*--version) test -e "$(dirname "$0")/pip-is-here" ;;
  *pip*install*) echo "pip $*" >> "$CALLS"; sleep "${SLOW:-0}"; exit "${FAILS:-0}" ;;
  *) for word in "$@"; do echo "word $word" >> "$CALLS"; done; sleep "${SERVES:-0}" ;;
esac
"""


class Site:
    """A fresh clone, as far as the Makefile needs one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls.txt"
        for file in ("Makefile", *(path.name for path in ROOT.glob("requirements*.txt"))):
            shutil.copy(ROOT / file, folder / file)
        python = folder / "python3"
        python.write_text(PYTHON)
        python.chmod(0o755)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Run make in a process group of its own."""
        return subprocess.Popen(
            ["make", f"PYTHON={self.folder / 'python3'}", *words],
            cwd=self.folder,
            env={**os.environ, "CALLS": str(self.calls), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def make(self, *words: str, **environment: str) -> tuple[int, str]:
        """Exit status and output."""
        process = self.start(*words, **environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def called(self, start: str) -> list[str]:
        """The calls that begin so."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line for line in lines if line.startswith(start)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    if shutil.which("flock") is None or shutil.which("make") is None:
        pytest.skip("make or flock (util-linux) is not installed")
    return Site(tmp_path)


def wait_for(site: Site, start: str) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and not site.called(start):
        time.sleep(0.05)


def test_an_installation_that_was_killed_is_made_anew(site: Site) -> None:
    killed = site.start("install", SLOW="30")
    wait_for(site, "pip")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    status, output = site.make("install")
    assert status == 0, output
    assert "cut off" in output
    assert len(site.called("venv")) == 2


def test_an_environment_without_pip_is_made_anew(site: Site) -> None:
    assert site.make("install")[0] == 0
    (site.folder / ".venv" / "bin" / "pip-is-here").unlink()
    (site.folder / ".venv" / ".installed").unlink()
    status, output = site.make("install")
    assert status == 0, output
    assert len(site.called("venv")) == 2


def test_two_calls_at_once_install_once(site: Site) -> None:
    calls = [site.start("install", SLOW="0.5") for _ in range(2)]
    outputs = [call.communicate(timeout=60)[0] for call in calls]
    assert [call.returncode for call in calls] == [0, 0], outputs
    assert len(site.called("venv")) == 1
    assert len(site.called("pip")) == 3
    assert any("Another call of make installs" in output for output in outputs)


def test_a_second_call_does_nothing(site: Site) -> None:
    site.make("install-dev")
    before = site.calls.read_text()
    assert site.make("install-dev")[0] == 0
    assert site.calls.read_text() == before


def test_without_a_package_index_it_says_where_to_read_on(site: Site) -> None:
    status, output = site.make("install", FAILS="1")
    assert status != 0
    assert "air-gapped.md" in output
    status, output = site.make("install")
    assert status == 0, output
    assert "cut off" not in output  # what failed in an orderly way is whole, and is gone on with


@pytest.mark.parametrize("name", ["it's mine", "two words", 'a "quoted" one', "a,b;c&d"])
def test_a_folder_of_any_name_is_served(site: Site, name: str) -> None:
    study = site.folder / name
    study.mkdir()
    status, output = site.make("serve", f"STUDIES={study}")
    assert status == 0, output
    assert f"word {study}" in site.called("word")


def test_a_mistyped_folder_is_not_served(site: Site) -> None:
    status, output = site.make("serve", f"STUDIES={site.folder / 'mistyped'}")
    assert status != 0
    assert "Is its name right?" in output
    assert not site.called("word")
    assert not (site.folder / "mistyped").exists()


def test_nothing_is_cleaned_away_under_a_running_server(site: Site) -> None:
    serving = site.start("serve", f"STUDIES={site.folder}", SERVES="30")
    wait_for(site, "word")
    status, output = site.make("clean")
    assert status != 0
    assert "A server runs" in output
    assert (site.folder / ".venv").exists()
    os.killpg(serving.pid, signal.SIGTERM)
    serving.wait()
    assert site.make("clean")[0] == 0
    assert not (site.folder / ".venv").exists()
