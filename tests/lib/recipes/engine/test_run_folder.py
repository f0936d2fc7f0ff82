"""A run's state on disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from lib.core.errors import UserError
from lib.core.files import check_space, space_errors, write_whole
from lib.core.json_files import read_json, write_json
from lib.core.leftovers import part_prefix, remove_leftovers
from lib.core.sealed import damage_in, read_sealed, sums_of, write_sealed
from lib.recipes.engine import run_folder as runfolder
from lib.recipes.engine.run_folder import fingerprint, only_one, open_run


def test_an_unfinished_run_with_the_same_input_is_continued(tmp_path: Path) -> None:
    run = open_run(tmp_path, {"cases": ["a"], "seed": 1})
    assert run.finished_round() is None
    part = run.new_round(0)
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
    run.new_round(0)
    run.end_round(0)
    run.end_run()
    state = read_json(run.path / "state.json") or {}
    assert (state["finished_round"], state["finished"]) == (0, True)
    assert open_run(tmp_path, {"seed": 1}) != run


def test_half_a_round_is_thrown_away_unless_wanted(tmp_path: Path) -> None:
    run = open_run(tmp_path, {})
    (run.new_round(1) / "half").write_text("")
    assert (run.open_round(1) / "half").exists()
    assert not (run.new_round(1) / "half").exists()


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


def _hold(folder: Path, held: Any) -> None:
    with only_one(folder):
        held.set()
        time.sleep(60)


def test_two_trainings_at_once_are_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # a fresh Python would spend its time importing
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held))
    other.start()
    assert held.wait(60)
    with pytest.raises(UserError, match="running already"), only_one(tmp_path):
        pass
    other.kill()
    other.join()
    with only_one(tmp_path):
        pass


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]})
    assert read_json(tmp_path / "a.json") == {"b": [1]}
    assert read_json(tmp_path / "c.json") is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"digest": 5}', '{"digest": "x", "seed": 2}', None])
def test_a_run_whose_notes_are_damaged_goes_on_all_the_same(tmp_path: Path, damage: str | None) -> None:
    run = open_run(tmp_path, {"seed": 1})
    run.new_round(0)
    run.end_round(0)
    for name in ("run.json", "state.json"):
        if damage is None:
            (run.path / name).unlink()
        else:
            (run.path / name).write_text(damage)
        assert open_run(tmp_path, {"seed": 1}) == run
        assert open_run(tmp_path, {"seed": 1}).finished_round() == 0
    assert (read_json(run.path / "run.json") or {})["seed"] == 1  # written anew


def test_a_run_with_damaged_notes_is_not_taken_for_another_one(tmp_path: Path) -> None:
    run = open_run(tmp_path, {"seed": 1})
    run.new_round(0)
    run.end_round(0)
    (run.path / "run.json").write_text("{")
    assert open_run(tmp_path, {"seed": 2}) != run


def test_rounds_from_one_on_are_forgotten_whole(tmp_path: Path) -> None:
    run = open_run(tmp_path, {})
    for index in range(3):
        (run.new_round(index) / "x").write_text("x")
        run.end_round(index)
    run.new_round(3)
    run.drop_rounds(1)
    assert [path.name for path in sorted((run.path / "rounds").iterdir())] == ["0"]


def test_of_half_a_round_may_stay_what_is_named(tmp_path: Path) -> None:
    part = open_run(tmp_path, {}).new_round(1)
    (part / "training-0.pt").write_text("")
    (part / "evidence").mkdir()
    run = open_run(tmp_path, {})
    assert [path.name for path in run.new_round(1, keep="training-*.pt").iterdir()] == ["training-0.pt"]


# --- temporary files --------------------------------------------------------------------------------------------------


def test_what_killed_processes_have_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        write_whole(tmp_path / "a.json", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    os.waitpid(child, 0)
    (left,) = tmp_path.iterdir()
    kept = [tmp_path / name for name in (f"{part_prefix()}x.nii.gz", ".part-abc.json", "b.json")]
    for path in kept:
        path.write_text("being written")
    (tmp_path / ".part-2").mkdir()
    old = tmp_path / ".part-def.json"
    old.write_text("by an earlier version")
    os.utime(old, (0, 0))
    assert sorted(remove_leftovers([tmp_path, tmp_path / "not there"])) == sorted([left, old])
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / ".part-2"])


# --- sums -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["half", "empty", "missing", "a bit", "another value", "another type"])
def test_sealed_notes_tell_when_they_are_not_what_was_written(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "notes.json"
    write_sealed(path, {"names": ["a", "b"], "best": 0.25})
    assert read_sealed(path) == {"names": ["a", "b"], "best": 0.25}
    text = path.read_text()
    if damage == "missing":
        path.unlink()
    else:
        changed = {
            "half": text[: len(text) // 2],
            "empty": "",
            "a bit": text.replace("0.25", "0.24"),
            "another value": text.replace('"b"', '"c"'),
            "another type": "[1, 2]",
        }
        path.write_text(changed[damage])
    assert read_sealed(path) is None


def test_damage_in_a_folder_is_told_by_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b", "fold-1.pt"):
        (tmp_path / name).write_text(name)
    sums = sums_of(tmp_path, without=["fold-*.pt"])
    assert sorted(sums) == ["a", "sub/b"]
    assert damage_in(tmp_path, sums) is None
    (tmp_path / "sub" / "b").write_text("sub/c")  # as long as before
    assert damage_in(tmp_path, sums) == "sub/b is damaged"
    (tmp_path / "sub" / "b").unlink()
    assert damage_in(tmp_path, sums) == "sub/b is missing"
