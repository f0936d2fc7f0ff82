"""Jobs and what is known of them: who runs, who was killed, and that nobody outlives a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monailabel.utils.async_tasks import utils

from server.jobs import records as job_records
from server.jobs.other_servers import note_server
from server.jobs.process import Jobs
from server.jobs.records import SCORING, TRAIN, JobRecord, JobRecords, sentence, true_stats
from server.jobs.system_processes import born
from tiny_study import ROOT

SLEEPER = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
WITH_A_CHILD = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {SLEEPER!r}])\n{SLEEPER}"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process that only waits."""
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    for known in (utils.background_tasks, utils.background_processes):
        known.clear()
    yield Jobs(tmp_path / "place", lambda: tmp_path / "runs")
    for known in (utils.background_tasks, utils.background_processes):
        known.clear()


def run(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, script: str, kind: str = TRAIN) -> dict[str, Any]:
    """Run a script as if MONAI Label had started it as a job; the task as clients see it, with its thread."""
    import threading

    def open_process(method: str, request: Any) -> tuple[subprocess.Popen[str], str]:
        words = [sys.executable, "-c", script]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), "a script"

    monkeypatch.setattr("server.upstream.background_jobs.open_process", open_process)
    utils.background_processes.setdefault(kind, {})
    task: dict[str, Any] = {"id": "1", "status": "SUBMITTED", "request": {}, "start_ts": "2026-01-01 00:00:00"}
    utils.background_tasks.setdefault(kind, []).append(task)
    thread = threading.Thread(target=jobs.run, args=(task, kind))
    thread.start()
    task["thread"] = thread
    return task


def begun(task: dict[str, Any]) -> int:
    """Wait until a job has said something; its process."""
    until = time.monotonic() + 30
    while time.monotonic() < until and not list(task.get("details", [])):
        time.sleep(0.02)
    return int(next(iter(utils.background_processes[TRAIN].values())).pid)


def make_round(runs: Path, number: int) -> None:
    (runs / "run-20260101-000000-1" / "rounds" / str(number)).mkdir(parents=True)


# --- servers ----------------------------------------------------------------------------------------------------------


def test_a_second_server_of_a_study_says_who_serves_it_already(
    child: subprocess.Popen[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = JobRecords(tmp_path)
    records.begin("server", (0, 0.0), child.pid)
    note_server(records)
    assert f"by process {child.pid}" in caplog.text
    assert {record.pid for record in records.running("server")} == {child.pid, os.getpid()}


def test_a_server_after_one_that_was_killed_is_not_warned(
    child: subprocess.Popen[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = JobRecords(tmp_path)
    records.begin("server", (0, 0.0), child.pid)
    child.kill()
    child.wait()
    note_server(records)
    assert "served already" not in caplog.text


# --- one job ----------------------------------------------------------------------------------------------------------


def test_last_words_of_a_job_are_heard(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task = run(
        jobs, monkeypatch, "import sys\nprint('one')\nsys.stdout.write('Training stopped: no space')\nsys.exit(1)"
    )
    task["thread"].join(30)
    assert task["status"] == "ERROR"
    assert list(task["details"]) == ["one", "Training stopped: no space"]
    assert not list((tmp_path / "place" / "jobs").glob("*.json"))


@pytest.mark.parametrize(("number", "part"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
def test_killed_job_says_so(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, part: str
) -> None:
    make_round(tmp_path / "runs", 0)
    make_round(tmp_path / "runs", 1)
    task = run(jobs, monkeypatch, SLEEPER)
    os.kill(begun(task), number)
    task["thread"].join(30)
    assert task["status"] == "ERROR"
    last = task["details"][-1]
    assert part in last
    assert last.endswith("Train again to go on after round 1.")
    before = {"stage": "training", "seconds_left": 69.0, "start_ts": "2026-01-01 00:00:00", "epoch": 3}
    stats = true_stats(before, tmp_path / "place", tmp_path / "runs")
    assert (stats["stage"], stats["seconds_left"], stats["message"], stats["epoch"]) == ("killed", 0.0, last, 3)


def test_job_killed_for_want_of_memory_is_told_apart(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([4, 5])
    monkeypatch.setattr("server.jobs.process.kills_for_memory", lambda: next(counts))
    monkeypatch.setattr(job_records, "kills_for_memory", lambda: next(counts))
    task = run(jobs, monkeypatch, SLEEPER)
    os.kill(begun(task), signal.SIGKILL)
    task["thread"].join(30)
    last = task["details"][-1]
    assert "The memory of this machine does not suffice: the training was killed by the system." in last
    assert "choose the preset quick" in last


@pytest.mark.parametrize("end", ["sys.exit(1)", "os.abort()"])
def test_job_that_a_library_ends_for_want_of_memory_says_so(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str
) -> None:
    words = "libgomp: Thread creation failed: Resource temporarily unavailable"
    task = run(jobs, monkeypatch, f"import os, sys\nprint({words!r}, flush=True)\n{end}")
    task["thread"].join(30)
    last = task["details"][-1]
    assert last.startswith("The memory of this machine does not suffice: the training has ended. End other programs")
    stats = true_stats({"stage": "starting", "start_ts": ""}, tmp_path / "place", tmp_path / "runs")
    assert stats["message"] == last


def test_memory_that_was_short_for_a_moment_is_not_blamed_for_a_kill(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = run(jobs, monkeypatch, f"print('Cannot allocate memory: one scan is left out', flush=True)\n{SLEEPER}")
    os.kill(begun(task), signal.SIGKILL)
    task["thread"].join(30)
    assert "SIGKILL" in task["details"][-1]


def test_stopped_job_ends_with_all_it_has_started_and_is_no_accident(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import psutil  # type: ignore[import-untyped]

    task = run(jobs, monkeypatch, WITH_A_CHILD)
    tree = psutil.Process(begun(task))
    until = time.monotonic() + 10
    while not tree.children() and time.monotonic() < until:
        time.sleep(0.02)
    pids = [tree.pid, *(each.pid for each in tree.children())]
    assert len(pids) == 2
    stopped = jobs.stop(TRAIN)
    task["thread"].join(30)
    assert stopped is not None
    assert stopped["status"] == task["status"] == "STOPPED"
    assert [born(pid) for pid in pids] == [None, None]
    assert task["details"][-1] == "The training was stopped. Train again to go on."
    stats = true_stats({"stage": "training", "start_ts": ""}, tmp_path / "place", tmp_path / "runs")
    assert stats["stage"] == "stopped"
    assert jobs.stop(TRAIN) is None


def test_nothing_starts_in_a_server_that_ends(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    task = run(jobs, monkeypatch, SLEEPER)
    begun(task)
    jobs.end()
    task["thread"].join(30)
    assert "together with its server" in task["details"][-1]
    later = run(jobs, monkeypatch, SLEEPER)
    later["thread"].join(30)
    assert later["status"] == "STOPPED"


def test_a_server_that_ends_notes_it_before_it_is_gone(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The thread of the job may come too late; the next container cannot see whether its process is there."""
    task = run(jobs, monkeypatch, SLEEPER)
    pid = begun(task)
    monkeypatch.setattr(Jobs, "_tell_end", lambda self, *told: None)
    jobs.end()
    record = JobRecords(tmp_path / "place").of(TRAIN, pid)
    assert record is not None
    assert record.ended == "server"
    monkeypatch.setattr(job_records, "namespace", lambda: "another container")
    assert JobRecords(tmp_path / "place").running(TRAIN) == []
    task["thread"].join(30)


# --- across servers ---------------------------------------------------------------------------------------------------


def test_next_server_tells_of_a_job_that_was_killed_with_the_one_before(jobs: Jobs, tmp_path: Path) -> None:
    make_round(tmp_path / "runs", 2)
    records = JobRecords(tmp_path / "place")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    records.begin(TRAIN, (gone.pid, 1.0), gone.pid)
    jobs._settle()
    (task,) = utils.background_tasks[TRAIN]
    assert task["status"] == "ERROR"
    assert list(task["details"]) == [
        "The training was ended together with its server. Finished rounds are kept. Train again to go on after round 2."
    ]


@pytest.mark.parametrize("kind", [TRAIN, "batch_infer", SCORING])
def test_info_tells_of_a_killed_job_of_each_kind_until_the_next_one(
    jobs: Jobs, tmp_path: Path, child: subprocess.Popen[str], kind: str
) -> None:
    records = JobRecords(tmp_path / "place")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    record = records.begin(kind, (gone.pid, 1.0), gone.pid)
    jobs._settle()
    assert list(jobs.killed()) == [kind]
    assert "was ended together with its server" in jobs.killed()[kind]
    assert utils.background_tasks[kind][-1]["status"] == "ERROR"
    records.note_end(record, "stopped")
    assert jobs.killed() == {}
    records.note_end(record, "9")
    assert "SIGKILL" in jobs.killed()[kind]
    records.begin(kind, (0, 0.0), child.pid)
    assert jobs.killed() == {}


def test_next_server_ends_what_the_one_before_has_left(
    jobs: Jobs, tmp_path: Path, child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.jobs.process._GRACE_SECONDS", 0.2)
    records = JobRecords(tmp_path / "place")
    records.begin(TRAIN, (child.pid, 1.0), child.pid)  # of a server whose number somebody else has now
    jobs._settle()
    assert child.poll() is not None
    assert not records.running(TRAIN)


def test_job_of_another_server_that_lives_is_left_alone(
    jobs: Jobs, tmp_path: Path, child: subprocess.Popen[str]
) -> None:
    records = JobRecords(tmp_path / "place")
    records.begin(TRAIN, (os.getpid(), born(os.getpid()) or 0.0), child.pid)
    jobs._settle()
    assert child.poll() is None
    other = jobs.elsewhere(TRAIN)
    assert other is not None
    assert other.pid == child.pid


def test_numbers_that_were_given_again_are_no_jobs(tmp_path: Path, child: subprocess.Popen[str]) -> None:
    records = JobRecords(tmp_path / "place")
    record = records.begin(TRAIN, (0, 0.0), child.pid)
    assert records.running(TRAIN) == [record]
    path = next((tmp_path / "place" / "jobs").glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "born": record.born - 1000}))
    assert records.running(TRAIN) == []
    assert records.killed(TRAIN) is not None


def test_job_of_another_machine_runs_as_long_as_it_says_so(tmp_path: Path, child: subprocess.Popen[str]) -> None:
    records = JobRecords(tmp_path / "place")
    records.begin(TRAIN, (0, 0.0), child.pid)
    path = next((tmp_path / "place" / "jobs").glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "names": "other machine", "host": "gpu7"}))
    (record,) = records.running(TRAIN)
    records.still_runs(record)
    assert records.running(TRAIN) == [record]
    os.utime(path, (time.time() - 1000, time.time() - 1000))
    assert records.running(TRAIN) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "train"}', '{"kind": 1, "pid": "x"}', "\0"])
def test_damaged_records_are_passed_over(tmp_path: Path, content: str) -> None:
    records = JobRecords(tmp_path / "place")
    (tmp_path / "place" / "jobs").mkdir(parents=True)
    (tmp_path / "place" / "jobs" / "train-12.json").write_text(content)
    assert records.all(TRAIN) == []
    assert true_stats({"stage": "done", "start_ts": "x"}, tmp_path / "place", tmp_path) == {
        "stage": "done",
        "start_ts": "x",
    }


# --- statistics -------------------------------------------------------------------------------------------------------


def test_statistics_of_a_training_that_runs_or_has_ended_stay_as_they_are(
    tmp_path: Path, child: subprocess.Popen[str]
) -> None:
    done = {"stage": "done", "message": "Trained", "start_ts": "2026-01-01 00:00:00"}
    assert true_stats(done, tmp_path, tmp_path) == done
    assert true_stats({}, tmp_path, tmp_path) == {}
    running = {"stage": "training", "seconds_left": 5.0, "start_ts": "2026-01-01 00:00:00"}
    JobRecords(tmp_path).begin(TRAIN, (0, 0.0), child.pid)
    assert true_stats(running, tmp_path, tmp_path) == running


def test_training_that_was_killed_before_it_could_write_shows_instead_of_the_one_before(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    records = JobRecords(tmp_path)
    records.note_end(records.begin(TRAIN, (0, 0.0), gone.pid), "9")
    before = {"stage": "done", "message": "Trained", "start_ts": "2020-01-01 00:00:00"}
    assert true_stats(before, tmp_path, tmp_path)["stage"] == "killed"
    assert true_stats({}, tmp_path, tmp_path)["total_epochs"] == 1  # viewers divide by it
    after = {"stage": "done", "message": "Trained", "start_ts": "2100-01-01 00:00:00"}
    assert true_stats(after, tmp_path, tmp_path) == after


@pytest.mark.parametrize("kind", [TRAIN, "batch_infer", SCORING])
@pytest.mark.parametrize("ended", ["", "stopped", "server", "memory", "no memory", "9", "15", "11", "64"])
def test_every_end_is_told_in_words(kind: str, ended: str) -> None:
    text = sentence(kind, ended)
    assert f"the {job_records.NAMES[kind]} " in text.lower()
    assert text.endswith(".")
    assert "again" in text


# --- a job and its server ---------------------------------------------------------------------------------------------

SERVER = """
import os, subprocess, sys, time
from server.jobs.system_processes import SERVER, born
job = "import sys, time; sys.path[:0] = sys.argv[1:]\\n" \\
      "from server.jobs.system_processes import follow_server; follow_server()\\n" \\
      "import subprocess; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\\n" \\
      "print(c.pid, flush=True); time.sleep(60)"
environment = {**os.environ, SERVER: f"{os.getpid()} {born(os.getpid())}"}
job = subprocess.Popen([sys.executable, "-c", job, *sys.path], env=environment, stdout=subprocess.PIPE, text=True)
print(job.pid, job.stdout.readline().strip(), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("who", ["server", "job"])
@pytest.mark.slow
def test_job_and_all_it_has_started_end_with_the_server(who: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "apps" / "semisam")}
    server = subprocess.Popen([sys.executable, "-c", SERVER], env=environment, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    job, child = (int(word) for word in server.stdout.readline().split())
    try:
        if who == "server":
            server.kill()
            server.wait()
        else:
            os.kill(job, signal.SIGTERM)
        until = time.monotonic() + 15
        while time.monotonic() < until and (born(job) or born(child)):
            time.sleep(0.05)
        assert (born(job), born(child)) == (None, None)
    finally:
        server.kill()
        server.wait()
        for pid in (job, child):
            if born(pid):
                os.kill(pid, signal.SIGKILL)


def test_record_is_plain() -> None:
    record = JobRecord("train", 1, 2.0, "host", "host pid", 3, 4.0, "2026-01-01 00:00:00")
    assert not record.here
    assert not record.left_alone
