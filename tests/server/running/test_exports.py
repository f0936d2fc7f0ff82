"""Exports by REST, of a running server: started, watched, taken along, stopped; refused with the reason."""

from __future__ import annotations

import gzip
import io
import time
import zipfile
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
import pytest
import requests

from server_process import Server, detail
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

pytestmark = pytest.mark.server

PATH = "/semisam/export"


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    """case_1 is outlined; the outline of case_2 exists already elsewhere, and is imported at the start."""
    base = tmp_path_factory.mktemp("exports")
    study = make_tiny_study(base / "study", scans=3, finals=1)
    _, label, affine = tiny_scan(2)
    save_nifti(base / "elsewhere" / "case_2.nii.gz", label, affine)
    (base / "elsewhere" / "case_2.tsv").write_text("index\tname\n1\tball\n2\trod\n")
    server: Server = serve(study, labels=",".join(TINY_LABELS), **{"import": str(base / "elsewhere")})
    return server.start()


def _mark(server: Server) -> dict[str, str]:
    return {"X-Semisam-Mark": server.get("/semisam/api/mark").json()["mark"]}


def _end(server: Server) -> dict[str, Any]:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        state: dict[str, Any] = server.get(PATH).json()
        if state["status"] != "running":
            return state
        time.sleep(0.5)
    raise AssertionError(state)


def test_an_export_is_made_and_taken_along(server: Server) -> None:
    assert "POST /semisam/export" in detail(server.get(PATH), 404)
    asked = {"format": "nnunet", "name": "Dataset777_Tiny"}
    begun = server.post(PATH, json=asked, headers=_mark(server))
    assert begun.ok, begun.text
    assert "is running" in detail(server.post(PATH, json=asked, headers=_mark(server)), 429)
    assert server.get("/info/").ok
    state = _end(server)
    assert (state["status"], state["done"], state["total"]) == ("done", 2, 2), state
    reply = server.get(f"{PATH}/{state['id']}")
    assert reply.headers["content-type"] == "application/zip"
    assert "Dataset777_Tiny.zip" in reply.headers["content-disposition"]
    assert len(reply.content) == state["bytes"]
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        names = archive.namelist()
        assert "Dataset777_Tiny/dataset.json" in names
        assert not [name for name in names if ".semisam-export" in name]
        packed = archive.read("Dataset777_Tiny/labelsTr/case_1.nii.gz")
    label = nibabel.Nifti1Image.from_bytes(gzip.decompress(packed))
    assert np.array_equal(np.asarray(label.dataobj), tiny_scan(1)[1])
    assert requests.delete(server.url + PATH, headers=_mark(server), timeout=60).ok
    assert "not done" in detail(server.get(f"{PATH}/{state['id']}"), 409)


def test_what_cannot_be_exported_says_why(server: Server) -> None:
    assert server.post(PATH, json={"format": "bundle"}, headers=_mark(server)).ok
    state = _end(server)
    assert state["status"] == "failed"
    assert "train first" in state["log"][-1]
    assert server.post(PATH, json={"format": "nifti", "scans": ["case_9"]}, headers=_mark(server)).ok
    assert "no scan 'case_9'" in _end(server)["log"][-1]


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ({"format": "docx"}, 400, "Allowed: nnunet, bids"),
        ({"format": "nifti", "name": "../up"}, 400, "letters, digits"),
        ({"format": "nifti", "scans": ["--conf"]}, 404, "no scan '--conf'"),
        ({"format": "nifti", "finals": True}, 422, ""),
        ({"format": "nifti", "least_quality": 7}, 422, ""),
        ({}, 422, ""),
    ],
)
def test_a_bad_request_is_refused(server: Server, asked: dict[str, Any], status: int, part: str) -> None:
    reply = server.post(PATH, json=asked, headers=_mark(server))
    assert reply.status_code == status, reply.text
    assert part in reply.text


def test_pages_of_others_start_nothing(server: Server) -> None:
    assert "X-Semisam-Mark" in detail(server.post(PATH, json={"format": "nifti"}), 400)
    foreign = {**_mark(server), "Origin": "https://elsewhere.example"}
    assert server.post(PATH, json={"format": "nifti"}, headers=foreign).status_code in (400, 403)
