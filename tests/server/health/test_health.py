"""Whether the server can work: what counts, what does not, and that no name is told."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from dicomfiles import Labelled, write_series
from dicomserver import PlayedServer
from lib.core.labels import LabelSchema
from lib.setup.settings import Settings
from scored_study import put_specialist
from server.dicomweb.datastore import DicomWebStudy
from server.health import checks
from server.health.checks import Health, health_of
from server.store.folder_store import StudyDatastore
from server.store.study import Study
from server_process import Server
from tiny_study import TINY_LABELS, make_tiny_study, tiny_scan

SETTINGS = Settings(labels=LabelSchema(TINY_LABELS))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = make_tiny_study(tmp_path / "Mustermann Max 1970", scans=1)
    return Study(str(folder), StudyDatastore(str(folder)), SETTINGS, tmp_path / "models")


def _of(study: Study, killed: dict[str, str] | None = None) -> tuple[Health, dict[str, Any]]:
    health = health_of(study, killed or {})
    content: dict[str, Any] = json.loads(json.dumps(health.to_json()))
    return health, content["checks"]


def test_a_good_study_is_ready_and_no_name_is_told(study: Study) -> None:
    health, found = _of(study)
    assert health.ready
    assert found["labels"] == {"ok": True, "needed": True, "text": "labels can be written"}
    assert found["weights"]["text"] == "there: mind"
    assert found["training"]["text"] == "no training has finished yet"
    told = json.dumps(health.to_json())
    assert not any(name in told for name in ("Mustermann", "case_1", "/", os.uname().nodename))


def test_what_the_server_cannot_work_without(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(checks, "LEAST_FREE", 2**80)
        health, found = _of(study)
        assert (health.ready, found["disk of the study"]["ok"]) == (False, False)
    with monkeypatch.context() as patched:
        patched.setattr(checks.os, "access", lambda path, mode: mode != os.W_OK)
        health, found = _of(study)
        assert (health.ready, found["labels"]["text"]) == (False, "labels cannot be written")
    shutil.rmtree(study.location)
    health, found = _of(study)
    assert (health.ready, found["study"]["text"]) == (False, "the study's folder cannot be read")


def test_a_study_for_reading_only_is_ready(study: Study) -> None:
    store = StudyDatastore(study.location, read_only=True)
    health, found = _of(Study(study.location, store, SETTINGS, study.place))
    assert health.ready
    assert found["labels"]["text"] == "the study is served for reading only"


def test_missing_weights_and_killed_jobs_are_told_and_do_not_stop_it(study: Study, tmp_path: Path) -> None:
    settings = Settings(labels=SETTINGS.labels, generalists=("mind", "sam2_tiny"), weights=tmp_path / "none")
    other = Study(study.location, study.datastore, settings, tmp_path / "models")
    put_specialist(other)
    health, found = _of(other, {"train": "memory"})
    assert health.ready
    assert found["weights"] == {"ok": False, "needed": False, "text": "missing: sam2_tiny"}
    assert found["jobs"]["text"] == "ended without a word: training"
    assert found["training"]["text"].startswith("the network in service is of 20")


def test_the_cache_of_a_dicom_server_counts_and_the_server_is_not_asked(tmp_path: Path) -> None:
    server = PlayedServer()
    write_series(tmp_path / "scan", Labelled(*tiny_scan(1)))
    server.put_series(tmp_path / "scan")
    store = DicomWebStudy(server, tmp_path / "cache", search={}, age=0.0, labels=SETTINGS.labels, pseudo_labels="last")
    server.away = True
    health, found = _of(Study(server.address, store, SETTINGS, tmp_path / "models"))
    assert health.ready
    assert found["study"]["text"] == "the study's cache can be read"


@pytest.mark.server
def test_a_running_server_says_so_without_a_log_in(serve: Callable[..., Server], tmp_path: Path) -> None:
    study = make_tiny_study(tmp_path / "study", scans=1)
    server = serve(study, labels=",".join(TINY_LABELS)).start()
    ready = server.get("/semisam/health")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.headers["cache-control"] == "no-store"
    assert server.get("/semisam/health/live").json() == {"status": "live"}
    for path in ("/semisam/health", "/semisam/health/live"):
        head = requests.head(server.url + path, timeout=30)
        assert (head.status_code, head.content, head.headers["cache-control"]) == (200, b"", "no-store")
    assert "/semisam/health" in server.get("/openapi.json").json()["paths"]
    study.rename(tmp_path / "away")
    away = server.get("/semisam/health")
    assert (away.status_code, away.json()["status"]) == (503, "not ready")
    (tmp_path / "away").rename(study)
    assert server.get("/semisam/health").status_code == 200


@pytest.mark.server
@pytest.mark.parametrize("path", ["/semisam/health", "/semisam/metrics"])
def test_health_does_not_wait_while_a_label_is_made(path: str, serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(make_tiny_study(tmp_path / "study", scans=2), labels=",".join(TINY_LABELS)).start()
    done = threading.Event()

    def make_label() -> None:
        server.infer("propagate", "case_2")
        done.set()

    threading.Thread(target=make_label, daemon=True).start()
    time.sleep(0.1)
    answers = []
    while not done.is_set():
        answers.append(server.get(path).status_code)
        time.sleep(0.02)
    assert set(answers) == {200}
    assert len(answers) > 5  # a first one might come before the label is begun; the last one comes after it
