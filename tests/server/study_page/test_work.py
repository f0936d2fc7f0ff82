"""The work: what is started is what was asked for, what runs is told, and what has failed is told in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from lib.report.history import Entry, History
from page_parts import open_study, opened, put_pseudo_label, task_of, with_mark
from server.jobs.process import Jobs
from server.store.study import Study
from server.study_page import work as module
from server.study_page.help_texts import OPTIONS
from trainers import SemiSamTrainer

Tasks = dict[str, list[dict[str, Any]]]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(tmp_path)


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Tasks:
    """MONAI Label's lists of jobs; what is started is added, and waits."""
    lists: Tasks = {"train": [], "batch_infer": [], "scoring": []}

    def start(kind: str, request: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
        if len(lists[kind]) > 3:
            return None, "A training is running since yesterday."
        task = task_of("SUBMITTED", request=dict(request), number=len(lists[kind]))
        lists[kind].append(task)
        return task, None

    monkeypatch.setattr(module.background_jobs, "tasks", lambda kind: list(lists[kind]))
    monkeypatch.setattr(module.background_jobs, "start", start)
    return lists


@pytest.fixture
def client(study: Study, tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    jobs = Jobs(study.place, lambda: study.folder / "runs")
    first = {"scan": "case_2", "reason": "It stands for most others."}
    with opened(study, monkeypatch, trainer=SemiSamTrainer(study), jobs=jobs, suggest=lambda: dict(first)) as client:
        yield client


def test_each_button_asks_for_its_job(client: TestClient, tasks: Tasks) -> None:
    for path, content in (
        ("carry", {}),
        ("carry", {"model": "segment"}),
        ("score", {"what": "compare"}),
        ("score", {"what": "judge"}),
        ("train", {"options": {"preset": "full", "seed": 3}}),
    ):
        answer = client.post(f"/semisam/api/{path}", json=content, headers=with_mark(client))
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"].startswith("job-")
    assert [task["request"] for task in tasks["batch_infer"]] == [
        {"model": "propagate", "images": "unlabeled", "max_workers": 1},
        {"model": "segment", "images": "unlabeled", "max_workers": 1},
    ]
    assert [task["request"] for task in tasks["scoring"]] == [
        {"method": "representativeness"},
        {"method": "uncertainty", "then": ["pseudo_label_quality"]},
    ]
    assert tasks["train"][0]["request"] == {"model": "semisam", "preset": "full", "seed": 3}


def test_what_cannot_be_started_is_said(client: TestClient, tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    def post(path: str, content: Mapping[str, Any]) -> Any:
        return client.post(f"/semisam/api/{path}", json=content, headers=with_mark(client))

    assert "choose one of propagate, segment" in post("carry", {"model": "review"}).json()["detail"]
    assert post("train", {"options": {"model": "other"}}).status_code == 400
    assert post("stop", {"kind": "train", "id": "job-7"}).status_code == 409
    tasks["train"] = [task_of("RUNNING", number=n) for n in range(4)]
    refused = post("train", {"options": {}})
    assert (refused.status_code, refused.json()["detail"]) == (429, "A training is running since yesterday.")

    def no_label(kind: str, request: Mapping[str, Any]) -> Any:
        raise HTTPException(409, "No scan of this study has a 'final' label yet.")

    monkeypatch.setattr(module.background_jobs, "start", no_label)
    assert post("train", {"options": {}}).json()["detail"] == "No scan of this study has a 'final' label yet."


@pytest.mark.parametrize("path", ["carry", "score", "train", "stop"])
def test_pages_of_others_start_nothing(client: TestClient, tasks: Tasks, path: str) -> None:
    content = {"kind": "train", "id": "job-0"}
    assert client.post(f"/semisam/api/{path}", json=content).status_code == 400
    foreign = with_mark(client, Origin="https://evil.example")
    assert client.post(f"/semisam/api/{path}", json=content, headers=foreign).status_code == 403
    form = {"content": "text/plain", "Origin": "null"}
    assert client.post(f"/semisam/api/{path}", data=content, headers=form).status_code in (403, 422)
    assert not any(tasks.values())


def test_what_runs_and_waits(client: TestClient, tasks: Tasks, study: Study) -> None:
    line = "[2026-01-02 03:04:05,678] [12] [MainThread] [INFO] (semisam.batch:88) - 3 of 12 scans: a. About 90 s left"
    tasks["batch_infer"] = [
        task_of("RUNNING", line, request={"model": "propagate"}),
        task_of("SUBMITTED", request={"model": "segment"}, number=1),
    ]
    state = client.get("/semisam/api/work").json()
    job = state["jobs"]["batch_infer"]
    assert (job["progress"], job["seconds_left"], job["id"]) == (0.25, 90.0, "job-0")
    assert job["log"] == ["3 of 12 scans: a. About 90 s left"]
    assert job["waiting"] == [{"model": "segment"}]
    assert state["machine"]["disk"][0] > 0
    assert state["next"]["step"] == "carry"


def test_the_same_comes_as_events(client: TestClient, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.study_page import work_routes

    monkeypatch.setattr(work_routes, "_LONGEST_SECONDS", 0.01)
    answer = client.get("/semisam/api/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    line = next(line for line in answer.text.splitlines() if line.startswith("data: "))
    assert json.loads(line[6:])["counts"]["all"] == 4


def test_every_option_of_a_training_is_explained(client: TestClient, study: Study) -> None:
    options = client.get("/semisam/api/options").json()["options"]
    assert {each["name"] for each in options} == set(OPTIONS)
    by_name = {each["name"]: each for each in options}
    assert by_name["recipe"]["default"] == "semisam_o1"
    assert (by_name["multi_gpu"]["kind"], by_name["rounds"]["kind"]) == ("switch", "number")


def test_earlier_trainings_with_report_and_curves(client: TestClient, study: Study) -> None:
    run = study.folder / "runs" / "run-20260102-030405-1"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"options": {"recipe": "fm_abs", "preset": "quick"}}))
    (run / "state.json").write_text(json.dumps({"finished_round": 2, "finished": True}))
    (run / "report.html").write_text("report")
    for epoch in (1, 2):
        History(run / "history.jsonl").add(Entry(1, 0, epoch, {"loss": 1 / epoch}))
    (found,) = client.get("/semisam/api/runs").json()["runs"]
    assert (found["started"], found["recipe"], found["round"], found["finished"]) == (
        "2026-01-02 03:04",
        "fm_abs",
        2,
        True,
    )
    assert found["report"] == f"/semisam/reports/{run.name}"
    drawn = client.get("/semisam/api/curve", params={"run": run.name, "metric": "loss"})
    assert drawn.headers["content-type"].startswith("image/svg+xml")
    assert drawn.text.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    for query in ({"run": "../x", "metric": "loss"}, {"run": run.name, "metric": "other"}):
        assert client.get("/semisam/api/curve", params=query).status_code == 404


def test_there_is_always_a_next_step(client: TestClient, study: Study) -> None:
    def step() -> str:
        return str(client.get("/semisam/api/work").json()["next"]["step"])

    assert client.get("/semisam/api/first").json() == {
        "scan": "case_2",
        "title": "case_2",
        "reason": "It stands for most others.",
    }
    file = study.datastore.get_label_uri("case_1", "final")
    assert step() == "carry"
    for number in (2, 3, 4):
        put_pseudo_label(study, number)
    assert step() == "train"
    study.published.parent.mkdir(parents=True, exist_ok=True)
    study.published.write_bytes(b"a network")
    assert step() == "review"
    for name in ("case_2", "case_3", "case_4"):
        study.datastore.save_label(name, file, "final", {})
    assert step() == "done"
    for name in study.datastore.list_images():
        study.datastore.remove_label(name, "final")
        if name != "case_1":
            study.datastore.remove_label(name, "original")
    assert step() == "outline"


def test_events_end_when_the_server_does(study: Study) -> None:
    jobs = Jobs(study.place, lambda: study.folder / "runs")
    assert not jobs.ending
    jobs.end()
    assert jobs.ending
