"""MONAI Label refuses a DICOM SEG after the work is done, and stumbles over options that are no object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from monailabel.endpoints import infer

from server.upstream import infer_endpoint
from upstream_parts import as_brought, ask, serve, web


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """An app that answers each request with a file, and notes it."""
    seen: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        seen.append(request)
        file = tmp_path / "answer.dcm"
        file.write_bytes(b"DICM")
        return {"file": str(file), "params": {"a": 1}}

    serve(monkeypatch, infer, infer=answer, info=dict, datastore=lambda: None, sessions=lambda: None)
    app = web(infer.router)
    app.state.seen = seen
    with as_brought((infer, "run_inference")):
        yield app


@pytest.mark.parametrize("params", ["{", "[1]", "null", "5", "9" * 5000, "[" * 100_000])
def test_options_that_are_no_object(app: FastAPI, params: str) -> None:
    assert ask(app, "POST", "/infer/segment?image=a", data={"params": params}).status_code == 500
    infer_endpoint.install(app)
    reply = ask(app, "POST", "/infer/segment?image=a", data={"params": params})
    assert reply.status_code == 400
    assert app.state.seen == []


def test_a_dicom_seg_is_made_by_the_app(app: FastAPI) -> None:
    path = "/infer/segment?image=a&output=dicom_seg"
    assert ask(app, "POST", path, data={"params": "{}"}).status_code == 500
    assert "output" not in app.state.seen[-1]
    infer_endpoint.install(app)
    reply = ask(app, "POST", path, data={"params": '{"device": "cpu"}'})
    assert (reply.status_code, reply.content) == (200, b"DICM")
    assert reply.headers["content-type"] == "application/dicom"
    assert app.state.seen[-1] == {"model": "segment", "image": "a", "device": "cpu", "output": "dicom_seg"}


def test_other_requests_go_as_before(app: FastAPI) -> None:
    infer_endpoint.install(app)
    assert ask(app, "POST", "/infer/segment?image=a&output=json", data={"params": "{}"}).json() == {"a": 1}
    assert ask(app, "POST", "/infer/segment?image=a&output=image").content == b"DICM"


def test_an_upload_with_an_endless_ending(app: FastAPI) -> None:
    files = {"file": ("a." + "e" * 300, b"x")}
    assert ask(app, "POST", "/infer/segment", files=files).status_code == 500
    infer_endpoint.install(app)
    assert ask(app, "POST", "/infer/segment", files=files).status_code == 400


def test_probabilities_are_asked_of_the_app(app: FastAPI) -> None:
    path = "/infer/segment?image=a&output=probability"
    assert ask(app, "POST", path, data={"params": "{}"}).status_code == 422
    infer_endpoint.install(app)
    reply = ask(app, "POST", path, data={"params": '{"label": "liver"}'})
    assert (reply.status_code, reply.content) == (200, b"DICM")
    assert app.state.seen[-1] == {"model": "segment", "image": "a", "label": "liver", "output": "probability"}
    assert ask(app, "POST", "/infer/segment?image=a&output=film").status_code == 422
