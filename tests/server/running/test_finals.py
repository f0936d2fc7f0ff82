"""Final labels as people save them: the first one names the structures, bad ones are kept and explained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import requests

from server_process import SCORES_BY_ITSELF, Server, detail
from tiny_study import make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.server

SLICER_INFO = [{"name": "ball", "idx": 1}, {"name": "rod", "idx": 2}]


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    study = make_tiny_study(tmp_path_factory.mktemp("study") / "study", scans=4, finals=0)
    server: Server = serve(study, SCORES_BY_ITSELF, propagator="prototype")
    return server.start()


def test_without_a_final_label(server: Server) -> None:
    assert server.get("/info/").json()["labels"] == ["structure"]
    assert server.post("/activelearning/recommended", json={}).json()["id"] in server.objects()
    for reply in (
        server.infer("propagate", "case_2"),
        server.post("/train/semisam", json={}),
        server.post("/train/", json={"semisam": {}}),
        server.post("/batch/infer/propagate", params={"images": "unlabeled"}),
    ):
        assert "save it" in detail(reply, 409)
    assert server.get("/train/").status_code == 404


def test_bad_first_label_is_kept_and_refused_with_the_reason(server: Server, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(1)
    file = save_nifti(tmp_path / "case_1.nii.gz", np.zeros_like(label), affine)
    for info, told, status in ((None, "Outline at least one of", 422), (SLICER_INFO, "none of the", 409)):
        reply = server.put_label("case_1", file, label_info=info)
        assert reply.ok
        assert "empty" in reply.json()["warnings"][0]
        for answer in (server.infer("propagate", "case_2"), server.post("/train/semisam", json={})):
            text = detail(answer, status)
            assert told in text
            assert "case_1" in text
    assert (server.study / "labels" / "final" / "case_1.nii.gz").read_bytes() == file.read_bytes()


def test_first_good_label_names_the_structures(server: Server, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(1)
    reply = server.put_label("case_1", save_nifti(tmp_path / "case_1.nii.gz", label, affine), label_info=SLICER_INFO)
    assert reply.json()["warnings"] == []
    info = server.get("/info/").json()
    assert info["labels"] == ["ball", "rod"]
    assert info["models"]["segment"]["labels"] == {"ball": 1, "rod": 2}
    assert server.infer("propagate", "case_2").ok


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda label: np.zeros_like(label), "is empty"),
        (lambda label: label * 3, "value(s) 3, 6"),
        (lambda label: label[:-1], "voxels"),
        (lambda label: label[:, :, :1], "36 x 32 x 1 voxels, but its scan has 36 x 32 x 28"),
        (lambda label: np.where(label > 0, 1.5, 0).astype(np.float32), "whole numbers"),
    ],
)
def test_bad_label_among_good_ones(server: Server, tmp_path: Path, change: Callable, part: str) -> None:
    _, label, affine = tiny_scan(3)
    file = save_nifti(tmp_path / "case_3.nii.gz", change(label), affine)
    reply = server.put_label("case_3", file)
    assert reply.ok, reply.text
    (warning,) = reply.json()["warnings"]
    assert part in warning
    assert "case_3" in warning
    assert (server.study / "labels" / "final" / "case_3.nii.gz").read_bytes() == file.read_bytes()
    again = server.infer("propagate", "case_2")
    assert again.ok, again.text
    assert b"case_1" in again.content
    assert b'"case_3"' not in again.content


def test_cut_label_is_refused_and_the_one_before_stays(server: Server, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(1)
    before = (server.study / "labels" / "final" / "case_1.nii.gz").read_bytes()
    file = save_nifti(tmp_path / "case_1.nii.gz", label, affine)
    file.write_bytes(file.read_bytes()[:100])
    assert "nothing is changed: its file cannot be read" in detail(server.put_label("case_1", file), 422)
    assert (server.study / "labels" / "final" / "case_1.nii.gz").read_bytes() == before
    assert server.infer("propagate", "case_2").ok


def test_what_is_no_scan_is_not_stored(server: Server, tmp_path: Path) -> None:
    (tmp_path / "new.nii.gz").write_bytes(b"<html>502 Bad Gateway</html>")
    with (tmp_path / "new.nii.gz").open("rb") as content:
        reply = requests.put(server.url + "/datastore/image", files={"file": ("new.nii.gz", content)}, timeout=60)
    assert "it is a web page" in detail(reply, 422)
    assert not list(server.study.glob("new*"))
    assert "new" not in server.objects()


def test_reordered_segments_are_understood(server: Server, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(3)
    swapped = np.choose(label, [0, 2, 1]).astype(np.uint8)
    info = [{"name": "rod", "idx": 1}, {"name": "Ball", "idx": 2}]
    file = save_nifti(tmp_path / "case_3.nii.gz", swapped, affine)
    assert server.put_label("case_3", file, label_info=info).json()["warnings"] == []
    reply = server.client().infer("propagate", "case_4", {})
    assert sorted(reply[1]["templates"]) == ["case_1", "case_3"]
    assert reply[1]["volume_ml"]["ball"] > reply[1]["volume_ml"]["rod"] * 0.8


def test_unknown_structure_is_named(server: Server, tmp_path: Path) -> None:
    _, label, affine = tiny_scan(3)
    file = save_nifti(tmp_path / "case_3.nii.gz", label, affine)
    info = [{"name": "tumour", "idx": 1}, {"name": "ball", "idx": 2}]
    assert "tumour" in server.put_label("case_3", file, label_info=info).json()["warnings"][0]


@pytest.mark.parametrize(
    ("kind", "start", "look"),
    [
        ("batch_infer", "/batch/infer/propagate", "/batch/infer/"),
        ("scoring", "/scoring/representativeness", "/scoring/"),
    ],
)
def test_killed_job_says_so_and_the_next_one_starts(server: Server, kind: str, start: str, look: str) -> None:
    requests.delete(server.url + "/scoring/", timeout=60)  # it may have begun by itself
    assert server.post(start, json={}).ok
    os.kill(running_job(server, kind), signal.SIGKILL)
    until = time.monotonic() + 20
    while server.get(look).json()["status"] != "ERROR" and time.monotonic() < until:
        time.sleep(0.1)
    assert "was killed by" in server.get(look).json()["details"][-1]
    assert "signal 9, SIGKILL" in server.get("/info/").json()["killed_jobs"][kind]
    assert server.post(start, json={}).ok
    running_job(server, kind)
    assert "killed_jobs" not in server.get("/info/").json()
    assert requests.delete(server.url + look, timeout=60).ok


def running_job(server: Server, kind: str) -> int:
    """The process of a job, as soon as it is noted."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for file in server.app.glob(f"model/semisam/*/jobs/{kind}-*.json"):
            record = json.loads(file.read_text())
            if not record["ended"] and psutil.pid_exists(record["pid"]):
                return int(record["pid"])
        time.sleep(0.1)
    raise AssertionError(f"no {kind} runs:\n{server.tail()}")


def test_final_label_is_deleted_by_people_only(server: Server) -> None:
    url = server.url + "/datastore/label"
    assert requests.delete(url, params={"id": "case_3", "tag": "final"}, timeout=60).ok
    assert "final" not in server.objects()["case_3"]["labels"]
    reply = requests.delete(url, params={"id": "case_3", "tag": "final"}, timeout=60)
    assert "no label" in detail(reply, 404)


# --- settings that stop the start -------------------------------------------------------------------------------------


def test_bad_settings_stop_the_start_with_one_readable_message(serve: Callable[..., Server], tmp_path: Path) -> None:
    server: Server = serve(make_tiny_study(tmp_path / "study", scans=1), label="liver", roi_size="7")
    server.launch()
    assert server.process is not None
    try:
        status = server.process.wait(timeout=240)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the server still runs:\n{server.tail()}")
    assert status == 2
    lines = server.tail().strip().splitlines()
    begin = lines.index("semisam cannot start.")
    message = "\n".join(lines[begin:])
    assert "label: there is no such setting. Did you mean labels?" in message
    assert "roi_size: '7' is not allowed" in message
    assert "--conf default_strategy" in message  # all that may be set
    assert lines[-1].strip().startswith("--conf ")
    assert "Traceback" not in server.tail()
