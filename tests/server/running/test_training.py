"""Training over a running server: killed, continued, in service; the server answers all the while."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import requests

from server_process import SCORES_BY_ITSELF, Server, detail
from tiny_study import TINY_LABELS, dice, make_tiny_study, tiny_scan

pytestmark = pytest.mark.server

OPTIONS = {"preset": "quick", "rounds": 2, "max_epochs": 2, "seed": 3, "device": "cuda", "client_id": "tests"}

FULL_DISK = """
import os
_replace = os.replace
def replace(source, target, **arguments):
    if os.path.exists(os.environ["TEST_FULL"]) and os.sep + "model" + os.sep in str(target):
        raise OSError(28, "No space left on device", str(target))
    return _replace(source, target, **arguments)
os.replace = replace
"""
"""Imported by every Python process of the server: while a marker file is there, the model folder has no space left."""


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    base = tmp_path_factory.mktemp("base")
    (base / "site").mkdir()
    (base / "site" / "sitecustomize.py").write_text(FULL_DISK)
    env = SCORES_BY_ITSELF | {"PYTHONPATH": str(base / "site"), "TEST_FULL": str(base / "full")}
    study = make_tiny_study(base / "study", scans=4)
    server: Server = serve(study, env, labels=",".join(TINY_LABELS), spacing="4.5", roi_size="32,16,16")
    return server.start()


def stats(server: Server) -> dict[str, Any]:
    return dict(server.get("/info/").json()["train_stats"]["semisam"])


def training_process(server: Server) -> psutil.Process:
    assert server.process is not None
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next(c for c in children if "monailabel.interfaces.utils.app" in c.cmdline() and "train" in c.cmdline())


def label_of(server: Server, model: str, image: str) -> tuple[np.ndarray, dict[str, Any]]:
    file, params = server.client().infer(model, image, {"result_extension": ".nii.gz"})
    return np.asarray(nibabel.load(file).dataobj), params


def state(server: Server) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (server.study / "labels" / "final").iterdir()}


def test_no_space_in_the_model_folder(server: Server) -> None:
    marker = Path(server._environment["TEST_FULL"])
    marker.touch()
    try:
        text = detail(server.post("/train/semisam", json=OPTIONS), 507)
    finally:
        marker.unlink()
    assert "No space left" in text
    assert server.get("/train/").status_code == 404
    assert not list(server.app.rglob(".part-*"))


def test_killed_training_leaves_the_last_model_in_service(server: Server) -> None:
    finals = state(server)
    reply = server.post("/train/semisam", json=OPTIONS)
    assert reply.ok, reply.text
    assert "DELETE /train/" in detail(server.post("/train/semisam", json=OPTIONS), 429)

    seen: dict[str, Any] = {}
    slowest, until = 0.0, time.monotonic() + 400
    while not (seen.get("round") == 2 and seen.get("stage") == "training" and seen["epoch"] > 2):
        begun = time.monotonic()
        seen = stats(server)
        slowest = max(slowest, time.monotonic() - begun)
        status = server.get("/train/").json()
        assert status["status"] in ("SUBMITTED", "RUNNING"), "\n".join(status["details"])
        assert time.monotonic() < until, server.tail()
        time.sleep(0.3)
    os.kill(training_process(server).pid, signal.SIGKILL)
    assert slowest < 2
    assert seen["total_epochs"] == 4
    assert isinstance(seen["best_metric"], float)

    status = server.wait("/train/")
    assert status["status"] == "ERROR"
    assert state(server) == finals
    values, params = label_of(server, "segment", "case_2")
    assert params["round"] == 1
    assert values.shape == tiny_scan(2)[0].shape
    assert list(params["label_names"]) == list(TINY_LABELS)
    objects = server.objects()
    for name in ("case_2", "case_3", "case_4"):
        stored = objects[name]["labels"]["original"]["info"]["params"]
        assert stored["round"] == 1
        assert list(stored["label_names"].items()) == [("ball", 1), ("rod", 2)]
    assert "original" not in objects["case_1"]["labels"]


def test_next_training_continues_at_the_round_that_was_killed(server: Server) -> None:
    finals = state(server)
    assert server.post("/train/semisam", json=OPTIONS).ok
    status = server.wait("/train/", 400)
    log = server.log.read_text()
    assert status["status"] == "DONE", "\n".join(status["details"])
    assert "after round 1" in log[log.rindex("Train request") :]
    done = stats(server)
    assert done["epoch"] == done["total_epochs"] == 4
    assert done["stage"] == "done"
    assert done["total_time"]
    assert 0 <= done["best_metric"] <= 1
    assert state(server) == finals
    assert server.objects()["case_2"]["labels"]["original"]["info"]["params"]["round"] == 2


def test_the_report_is_served(server: Server) -> None:
    done = stats(server)
    assert done["report"].startswith("/semisam/reports/run-")
    for path in (done["report"], "/semisam/reports/latest"):
        page = server.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "Pseudo-labels, round by round" in page.text
    assert str(server.app) not in done["message"]
    for wrong, status in (("run-20200101-000000-1", 404), ("..%2f..%2frun.json", 400), ("run.json", 404)):
        answer = server.get(f"/semisam/reports/{wrong}")
        assert answer.status_code == status
        assert "root:" not in answer.text


def test_segment_uncertainty_and_review(server: Server) -> None:
    values, params = label_of(server, "segment", "case_3")
    assert params["round"] == 2
    assert dice(values, tiny_scan(3)[1], 1) > 0.5
    assert 0 <= params["confidence"] <= 1
    doubt, params = label_of(server, "uncertainty", "case_3")
    assert doubt.dtype == np.uint8
    assert len(np.unique(doubt)) > 20
    stored, params = label_of(server, "review", "case_3")
    assert params["round"] == 2
    assert set(np.unique(stored)) <= {0, 1, 2}


def test_next_sample_is_the_least_sure_one(server: Server) -> None:
    reply = server.post("/activelearning/random", json={}).json()
    infos = {n: o["image"]["info"] for n, o in server.objects().items() if n != "case_1"}
    assert reply["id"] == max(infos, key=lambda n: infos[n]["uncertainty"])


def test_scoring_asks_the_new_specialist_once(server: Server) -> None:
    # Next Sample has started a scoring by itself, which makes way.
    for scored in (3, 0):
        reply = server.post("/scoring/uncertainty?run_sync=true", json={})
        assert reply.ok, reply.text
        assert reply.json() == {"scored": scored, "failed": {}}


def test_failure_says_what_to_do_in_its_last_line(server: Server) -> None:
    image = server.study / "labels" / "final" / "case_1.nii.gz"
    before = image.read_bytes()
    marker = Path(server._environment["TEST_FULL"])
    assert server.post("/train/semisam", json={**OPTIONS, "seed": 4}).ok
    until = time.monotonic() + 200
    while stats(server).get("seed") != 4 and time.monotonic() < until:
        time.sleep(0.05)
    marker.touch()
    try:
        status = server.wait("/train/")
    finally:
        marker.unlink()
    assert status["status"] == "ERROR"
    last = status["details"][-1]
    assert last.startswith("Training stopped: No space left")
    assert "Free some space" in last
    assert image.read_bytes() == before
    assert label_of(server, "segment", "case_3")[1]["round"] == 2
    assert not list(server.app.rglob("specialist.pt*.part*"))


def test_model_file_can_be_fetched_and_put_back(server: Server) -> None:
    reply = server.get("/model/segment")
    assert reply.ok
    assert len(reply.content) > 10_000
    assert json.loads(server.get("/model/info/segment").text)
    before, _ = label_of(server, "segment", "case_3")
    url = server.url + "/model/segment"
    said = detail(requests.put(url, files={"file": ("specialist.pt", b"no model")}, timeout=60), 422)
    assert "damaged or no trained network" in said
    assert (label_of(server, "segment", "case_3")[0] == before).all()
    kept = requests.delete(url, timeout=60).json()["kept"]
    assert "train first" in detail(server.infer("segment", "case_3"), 409)
    (file,) = server.app.rglob(kept)
    assert requests.put(url, files={"file": ("specialist.pt", file.read_bytes())}, timeout=60).ok
    assert (label_of(server, "segment", "case_3")[0] == before).all()
