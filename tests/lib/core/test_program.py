"""Texts name the command that the reader can type."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from lib.core.program import BY_COMMAND, program, to_run


def test_a_checkout_names_its_own_python_and_main_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BY_COMMAND, raising=False)
    assert program() == "main.py"
    done = subprocess.run(shlex.split(to_run("weights list")), capture_output=True, text=True, timeout=300, check=True)
    assert "mobile_sam" in done.stdout


def test_an_installed_package_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BY_COMMAND, "semisam")
    assert (program(), to_run("users add FILE NAME")) == ("semisam", "semisam users add FILE NAME")
