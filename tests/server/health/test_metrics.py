"""What Prometheus is told: requests by route, the study by state, and no name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import generate_latest
from starlette.types import Receive, Scope, Send

from lib.core.labels import LabelSchema
from lib.setup.settings import Settings
from scored_study import put_pseudo_labels, put_specialist
from server.health import metrics
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from server_process import Server
from tiny_study import TINY_LABELS, make_tiny_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = make_tiny_study(tmp_path / "Mustermann", scans=5)
    settings = Settings(labels=LabelSchema(TINY_LABELS))
    study = Study(str(folder), StudyDatastore(str(folder)), settings, tmp_path / "models")
    put_pseudo_labels(study, tmp_path)
    return study


def _values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_the_study_is_told_by_numbers(study: Study) -> None:
    registry = metrics.registry_of(lambda: study, lambda: {"train": "memory"})
    text = generate_latest(registry).decode()
    found = _values(text)
    counts = [found[f'semisam_scans{{label="{label}"}}'] for label in ("final", "pseudo-label", "none")]
    assert counts == [1, 3, 1]
    assert (found["semisam_ready"], found['semisam_check{check="jobs"}']) == (1, 0)
    assert found['semisam_job_running{job="train"}'] == 0
    assert found["process_resident_memory_bytes"] > 10**7
    assert "semisam_network_timestamp_seconds" not in found
    assert not any(name in text for name in ("Mustermann", "case_1", str(study.location)))
    put_specialist(study)
    assert _values(generate_latest(registry).decode())["semisam_network_timestamp_seconds"] > 1.6e9


def test_requests_are_counted_by_route_and_not_by_what_was_asked(study: Study) -> None:
    registry = metrics.registry_of(lambda: study, dict)
    app = FastAPI()

    @app.get("/scan/{name}")
    def scan(name: str) -> str:
        if name == "bad":
            raise ValueError("patient Mustermann")
        return name

    client = TestClient(metrics.Counting(app, registry), raise_server_exceptions=False)
    for path in ("/scan/case_1", "/scan/case_2", "/scan/bad", "/nowhere/case_1"):
        client.get(path)
    text = generate_latest(registry).decode()
    found = _values(text)
    assert found['semisam_requests_total{method="GET",route="/scan/{name}",status="200"}'] == 2
    assert found['semisam_requests_total{method="GET",route="/scan/{name}",status="500"}'] == 1
    assert found['semisam_requests_total{method="GET",route="other",status="404"}'] == 1
    assert found['semisam_request_seconds_count{route="/scan/{name}"}'] == 3
    assert not any(name in text for name in ("case_", "Mustermann"))


def test_an_answer_is_counted_once_it_is_there_and_not_when_the_work_after_it_is_done(study: Study) -> None:
    registry = metrics.registry_of(lambda: study, dict)
    seen: list[str] = []

    async def scope_only(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})
        seen.append(generate_latest(registry).decode())

    TestClient(metrics.Counting(scope_only, registry)).get("/")
    counted = 'semisam_requests_total{method="GET",route="other",status="200"}'
    assert _values(seen[0])[counted] == _values(generate_latest(registry).decode())[counted] == 1


@pytest.mark.server
def test_a_running_server_counts_what_it_answers(serve: Callable[..., Server], tmp_path: Path) -> None:
    study = make_tiny_study(tmp_path / "Mustermann", scans=2)
    server = serve(study, labels=",".join(TINY_LABELS)).start()
    server.get("/datastore/image?image=case_1")
    server.infer("propagate", "case_2")
    server.get("/nowhere/../../x")
    text = server.get("/semisam/metrics").text
    found = _values(text)
    assert found['semisam_requests_total{method="POST",route="/infer/{model}",status="200"}'] == 1
    assert found['semisam_scans{label="final"}'] == 1
    assert not any(name in text for name in ("Mustermann", "case_"))
