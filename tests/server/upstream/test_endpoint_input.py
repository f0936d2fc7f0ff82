"""Malformed requests to MONAI Label's endpoints: a bare 500 without us, a refusal with a reason with us."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from monailabel.endpoints import datastore, logs, scoring, session, train, wsi_infer

from server.upstream import endpoint_input
from upstream_parts import as_brought, ask, serve, web

REPLACED = (
    *((datastore, name) for name in ("add_image", "save_label", "update_image_info", "update_label_info")),
    *((session, "create_session"), (wsi_infer, "run_wsi_inference"), (train, "run"), (scoring, "run")),
    (logs, "get_logs"),
)
FILE = ("a.nii.gz", b"x")
BAD: dict[str, tuple[str, str, dict[str, Any]]] = {
    "no JSON": ("PUT", "/datastore/image/info?image=a", {"data": {"info": "{"}}),
    "a list": ("PUT", "/datastore/image/info?image=a", {"data": {"info": "[1]"}}),
    "a list for a label": ("PUT", "/datastore/label/info?label=a&tag=final", {"data": {"info": "[1]"}}),
    "a number too long": ("PUT", "/datastore/image/info?image=a", {"data": {"info": "9" * 5000}}),
    "a scan with a list": ("PUT", "/datastore/image?image=a", {"data": {"params": "[1]"}, "files": {"file": FILE}}),
    "a label with no JSON": ("PUT", "/datastore/label?image=a", {"data": {"params": "{"}, "files": {"label": FILE}}),
    "a name too long": ("PUT", "/datastore/image?image=a", {"files": {"file": ("a." + "e" * 300, b"x")}}),
    "a session named dots": ("PUT", "/session/", {"files": {"files": ("..", b"x")}}),
    "a session's name too long": ("PUT", "/session/", {"files": {"files": ("e" * 300, b"x")}}),
    "options of a training": ("POST", "/train/", {"json": {"semisam": [1, 2]}}),
    "options of a scoring": ("POST", "/scoring/", {"json": {"uncertainty": 5}}),
    "lines of the log": ("GET", f"/logs/?lines={10**30}", {}),
    "a slide": ("POST", "/infer/wsi_v2/segment?image=a", {"data": {"wsi": "[]"}}),
    "a slide's level": ("POST", "/infer/wsi_v2/segment?image=a", {"data": {"wsi": '{"level": "x"}'}}),
}


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[FastAPI]:
    """MONAI Label's routes before a store that notes what it is given."""
    seen: list[Any] = []

    def note(*given: Any) -> str:
        seen.append(given)
        return "a"

    store = SimpleNamespace(add_image=note, save_label=note, update_image_info=note, update_label_info=note)
    info: dict[str, Any] = {"trainers": {"semisam": {}}, "scoring": {"uncertainty": {}}}
    parts = {"datastore": lambda: store, "info": lambda: info, "seen": seen, "sessions": lambda: SimpleNamespace()}
    serve(
        monkeypatch, datastore, session, train, scoring, wsi_infer, endpoint_input,
        on_save_label=lambda *_: {}, infer_wsi=note, **parts,
    )  # fmt: skip
    for module in (train, scoring):
        monkeypatch.setattr(module.AsyncTask, "run", staticmethod(lambda *_, **given: ({"given": given}, None)))
    log = tmp_path / "logs" / "app.log"
    log.parent.mkdir()
    log.write_text("hello\n")
    monkeypatch.setattr(logs.settings, "MONAI_LABEL_APP_DIR", str(tmp_path))
    app = web(*(m.router for m in (datastore, session, train, scoring, logs, wsi_infer)))
    app.state.seen = seen
    with as_brought(*REPLACED):
        yield app


@pytest.mark.parametrize("kind", BAD)
def test_bad_request(app: FastAPI, kind: str) -> None:
    method, path, content = BAD[kind]
    assert ask(app, method, path, **content).status_code == 500, "MONAI Label no longer needs this"
    endpoint_input.install(app)
    reply = ask(app, method, path, **content)
    assert reply.status_code == 400, reply.text
    assert len(reply.json()["detail"]) > 30
    assert app.state.seen == []


def test_good_requests_pass(app: FastAPI) -> None:
    endpoint_input.install(app)
    for method, path, content in (
        ("PUT", "/datastore/image/info?image=a", {"data": {"info": '{"a": 1}'}}),
        ("PUT", "/datastore/image?image=a", {"files": {"file": FILE}}),
        ("PUT", "/datastore/image?image=a", {"data": {"params": ""}, "files": {"file": FILE}}),
        ("PUT", "/datastore/label?image=a", {"data": {"params": '{"user": "x"}'}, "files": {"label": FILE}}),
        ("POST", "/train/", {"json": {"semisam": {"preset": "quick"}}}),
        ("POST", "/train/", {}),
        ("POST", "/scoring/", {"json": {"then": [1]}}),
        ("GET", "/logs/?text=true&lines=5", {}),
        ("GET", "/logs/", {}),
    ):
        reply = ask(app, method, path, **content)
        assert reply.status_code == 200, (path, reply.text)
    assert len(app.state.seen) == 4


def test_a_slide_is_asked_for_as_by_monai_label(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint_input.install(app)
    asked: list[Any] = []

    def run(*given: Any) -> dict[str, Any]:
        asked.append(given[1:])
        return {}

    monkeypatch.setattr(wsi_infer, "run_wsi_inference", run)
    assert ask(app, "POST", "/infer/wsi_v2/segment?image=a", data={"wsi": '{"level": 2}'}).status_code == 200
    assert asked[0][:3] == ("segment", "a", "")
    assert asked[0][4].level == 2
