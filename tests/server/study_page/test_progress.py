"""How far a job is and why it has failed, in words."""

from __future__ import annotations

import pytest

from page_parts import task_of
from server.study_page.progress import failure, in_words, of_last, plain_line, progress_of


def test_how_far_a_training_is() -> None:
    stats = {"total_epochs": 40, "stage": "training", "current_time": "0:01:30", "seconds_left": 90}
    assert progress_of("train", [], stats) == {"progress": 0.5, "seconds_left": 90}
    assert progress_of("train", [], {**stats, "current_time": "1 day, 0:00:00", "seconds_left": 0})["progress"] == 1
    assert progress_of("train", [], {**stats, "stage": "starting"})["progress"] is None
    assert progress_of("scoring", ["Scoring: 5 of 10 scans. About 2 min left"], {})["seconds_left"] == 120


def test_how_far_a_job_is_in_words() -> None:
    job = {"name": "Training", "status": "RUNNING", "progress": 0.437, "seconds_left": 125.2}
    stats = {"round": 1, "rounds": 2, "stage": "training"}
    assert in_words(job, stats) == "Training, round 1 of 2, training, 43 %, about 2:05 left"
    assert in_words({**job, "seconds_left": 3725}, stats).endswith("about 1:02:05 left")
    for waiting, told in (({**job, "status": "SUBMITTED"}, stats), (job, {}), (job, {**stats, "stage": "starting"})):
        assert in_words(waiting, told) == "Training is being started"
    unknown = {"name": "Batch", "status": "RUNNING", "progress": None, "seconds_left": None}
    assert in_words(unknown, None) == "Batch"
    assert in_words({**unknown, "progress": 0.5, "seconds_left": 120}, None) == "Batch, 50 %, about 2:00 left"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("failed", "The disk is full. Free some space and train again."),
        ("failed", "The memory of cuda:0 does not suffice. Choose a quicker preset."),
        ("killed", "The training was killed by somebody, or the system for want of memory. Train again to go on."),
    ],
)
def test_a_failed_training_says_why(stage: str, message: str) -> None:
    ended = task_of("ERROR", "Training stopped: see above")
    assert failure("train", ended, [], {"stage": stage, "message": message}) == message
    assert failure("train", None, [], {"stage": stage, "message": message}) == message  # after the server's restart
    assert failure("train", task_of("RUNNING"), [], {"stage": stage, "message": message}) == ""


def test_a_failed_batch_says_why_in_its_last_line() -> None:
    lines = ["1 of 4 scans", "Batch infer stopped: No scan could be labelled. There is no label.", ""]
    assert failure("batch_infer", task_of("ERROR"), lines, {}).startswith("Batch infer stopped: No scan")
    assert "log" in failure("batch_infer", task_of("ERROR"), [], {})


def test_lines_of_the_log_are_shown_without_their_heads() -> None:
    assert plain_line("[2026-01-02 03:04:05] [1] [MainThread] [INFO] (a.b:1) - Round 1: [x] (y)") == "Round 1: [x] (y)"
    assert plain_line("Traceback (most recent call last):") == "Traceback (most recent call last):"


def test_what_is_said_of_the_training_before_is_not_taken_for_the_last_one() -> None:
    """A full disk keeps the statistics that it had."""
    old = {"start_ts": "2026-01-02 03:00:00", "stage": "failed", "message": "The memory does not suffice."}
    failed = task_of("ERROR", "Training stopped: No space left in /models. Free some space there.")
    assert of_last(old, [failed]) == {}
    assert failure("train", failed, list(failed["details"]), of_last(old, [failed])).endswith("Free some space there.")
    assert of_last({**old, "start_ts": "2026-01-02 03:04:05"}, [failed])["stage"] == "failed"
    assert of_last(old, []) == of_last(old, [task_of("SUBMITTED")]) == old
