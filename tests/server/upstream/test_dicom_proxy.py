"""MONAI Label's way to the DICOMweb server: it loses the question, and hands on the user's token."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from monailabel.config import settings
from monailabel.endpoints import proxy

from server.upstream import dicom_proxy
from upstream_parts import ask, web


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str | None]]]:
    """Addresses that reach a DICOMweb server, with the token that came along."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("authorization")))
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", f"http://127.0.0.1:{server.server_port}/dicom-web")
    yield seen
    server.shutdown()
    server.server_close()


def get(app: Any, path: str) -> Any:
    return ask(app, "GET", path, headers={"Authorization": "Bearer of-the-user"})


def test_monai_label_leaves_the_question_out(asked: list[tuple[str, str | None]]) -> None:
    assert get(web(proxy.router), "/proxy/dicom/qido/studies?PatientID=7").status_code == 200
    assert asked == [("/dicom-web/studies", None)]


def test_monai_label_hands_the_users_token_on(asked: list[tuple[str, str | None]]) -> None:
    headers = {"Authorization": "Bearer of-the-user", "Content-Type": "application/dicom"}
    ask(web(proxy.router), "POST", "/proxy/dicom/stow/studies", headers=headers, content=b"x")
    assert asked[0][1] == "Bearer of-the-user"


def test_ours_asks_the_question_without_the_token(asked: list[tuple[str, str | None]]) -> None:
    app = web(proxy.router)
    dicom_proxy.install(app)
    assert get(app, "/proxy/dicom/qido/studies?PatientID=7").json() == []
    headers = {"Authorization": "Bearer of-the-user", "Content-Type": "application/dicom"}
    ask(app, "POST", "/proxy/dicom/stow/studies", headers=headers, content=b"x")
    assert asked == [("/dicom-web/studies?PatientID=7", None), ("/dicom-web/studies", None)]


def test_only_resources_of_dicomweb_are_handed_on(asked: list[tuple[str, str | None]]) -> None:
    app = web(proxy.router)
    dicom_proxy.install(app)
    assert get(app, "/proxy/dicom/system").status_code == 404
    assert ask(app, "POST", "/proxy/dicom/stow/studies", content=b"x").status_code == 415
    assert asked == []
