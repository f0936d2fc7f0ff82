"""A run's state on disk."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from lib import runfolder
from lib.errors import UserError
from lib.runfolder import check_space, fingerprint, only_one, open_run, read_json, space_errors, write_json


def test_an_unfinished_run_with_the_same_input_is_continued(tmp_path: Path) -> None:
    run = open_run(tmp_path, {"cases": ["a"], "seed": 1})
    assert run.finished_round() is None
    part = run.begin_round(0)
    (part / "x").write_text("x")
    assert run.finished_round() is None
    run.end_round(0)
    assert run.finished_round() == 0
    assert (run.round(0) / "x").read_text() == "x"

    assert open_run(tmp_path, {"seed": 1, "cases": ["a"]}) == run
    other = open_run(tmp_path, {"cases": ["a", "b"], "seed": 1})
    assert other != run
    assert other.finished_round() is None
    assert open_run(tmp_path, {"cases": ["a"], "seed": 1}) not in (run, other)


def test_a_finished_run_is_not_continued(tmp_path: Path) -> None:
    run = open_run(tmp_path, {"seed": 1})
    run.begin_round(0)
    run.end_round(0)
    run.end_run()
    state = read_json(run.path / "state.json") or {}
    assert (state["finished_round"], state["finished"]) == (0, True)
    assert open_run(tmp_path, {"seed": 1}) != run


def test_half_a_round_is_thrown_away_unless_wanted(tmp_path: Path) -> None:
    run = open_run(tmp_path, {})
    (run.begin_round(1) / "half").write_text("")
    assert (run.begin_round(1, keep=True) / "half").exists()
    assert not (run.begin_round(1) / "half").exists()


def test_only_the_last_runs_are_kept(tmp_path: Path) -> None:
    runs = [open_run(tmp_path, {"seed": n}) for n in range(12)]
    assert [r.path.exists() for r in runs] == [False] * 9 + [True] * 3


def test_damaged_state_starts_a_new_run(tmp_path: Path) -> None:
    run = open_run(tmp_path, {})
    (run.path / "run.json").write_text("{")
    assert open_run(tmp_path, {}) != run


def test_fingerprint_sees_any_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "scan"
    file.write_bytes(bytes(1000))
    first = fingerprint(file)
    assert first == fingerprint(file)
    file.write_bytes(bytes(999) + b"x")
    assert fingerprint(file) != first
    monkeypatch.setattr(runfolder, "_WHOLE_FILE", 100)
    monkeypatch.setattr(runfolder, "_PIECE", 8)
    ends = fingerprint(file)
    file.write_bytes(bytes(999) + b"y")
    assert fingerprint(file) != ends
    assert fingerprint(tmp_path) == fingerprint(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        fingerprint(tmp_path / "missing")


def test_too_little_space_is_said_before_the_start(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(UserError, match="Free some space") as error:
        check_space(tmp_path, 2**60)
    assert error.value.status == 507


def test_no_space_left_becomes_a_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left"), space_errors(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="other"), space_errors(tmp_path):
        raise OSError(errno.EIO, "other")


def test_two_trainings_at_once_are_refused(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom lib.runfolder import only_one\n"
        "with only_one(Path(sys.argv[2])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    app = Path(runfolder.__file__).resolve().parents[1]
    with subprocess.Popen([sys.executable, "-c", code, app, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "held"
        with pytest.raises(UserError, match="running already"), only_one(tmp_path):
            pass
        other.kill()
    with only_one(tmp_path):
        pass


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]})
    assert read_json(tmp_path / "a.json") == {"b": [1]}
    assert read_json(tmp_path / "c.json") is None
