"""`main.py users`: people are added, changed and removed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from lib.people import UsersFile
from lib.setup.command_line import main


def add(monkeypatch: pytest.MonkeyPatch, file: Path, name: str, password: str, *more: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
    return main(["users", "add", str(file), name, "--password-stdin", *more])


def test_a_user_comes_changes_and_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "users"
    assert add(monkeypatch, file, "anna", "correct horse", "--role", "annotator") == 0
    assert add(monkeypatch, file, "anna", "another horse") == 0
    anna = UsersFile(file).people()["anna"]
    assert (anna.role, anna.knows("another horse"), anna.knows("correct horse")) == ("annotator", True, False)
    assert main(["users", "list", str(file)]) == 0
    assert "annotator" in capsys.readouterr().out
    assert main(["users", "remove", str(file), "anna"]) == 0
    assert UsersFile(file).people() == {}


def test_what_is_refused_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "users"
    assert add(monkeypatch, file, "anna", "short") == 1
    assert add(monkeypatch, file, "an:na", "correct horse") == 1
    assert not file.exists()
    assert "too short" in capsys.readouterr().err
