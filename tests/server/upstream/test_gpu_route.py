"""MONAI Label answers with a bare 500 on a machine without nvidia-smi."""

from __future__ import annotations

import pytest
from monailabel.endpoints import logs

from server.upstream import gpu_route
from upstream_parts import ask, web


def test_no_gpu_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask(web(logs.router), "GET", "/logs/gpu").status_code == 500
    app = web(logs.router)
    gpu_route.install(app)
    reply = ask(app, "GET", "/logs/gpu")
    assert reply.status_code == 404
    assert "nothing to show" in reply.json()["detail"]


def test_what_the_program_prints_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pathlib import Path

    program = Path(str(tmp_path)) / "nvidia-smi"
    program.write_text("#!/bin/sh\necho H200\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    app = web(logs.router)
    gpu_route.install(app)
    assert ask(app, "GET", "/logs/gpu").text == "H200\n"
