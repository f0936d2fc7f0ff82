"""MONAI Label writes whatever is sent over the network in service; ``web/test_models.py`` has what ours does."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from monailabel.endpoints import model

from server.upstream import model_files
from upstream_parts import ask, serve, web

NETWORK = b"the network in service"


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "specialist.pt"
    file.write_bytes(NETWORK)
    from types import SimpleNamespace

    study = SimpleNamespace(published=file, schema=SimpleNamespace(names=("ball",)))
    serve(monkeypatch, model, model_files, model_file=lambda *_, **__: str(file), study=study)
    return file


def put(app: FastAPI) -> int:
    return int(ask(app, "PUT", "/model/segment", files={"file": ("a.pt", b"rubbish")}).status_code)


def test_rubbish_takes_the_place_of_a_network_without_us(network: Path) -> None:
    assert put(web(model.router)) == 200
    assert network.read_bytes() == b"rubbish"


def test_rubbish_is_refused_by_ours(network: Path) -> None:
    app = web(model.router)
    model_files.install(app)
    assert put(app) == 422
    assert network.read_bytes() == NETWORK


def test_a_network_that_is_taken_out_is_kept_where_monai_label_cannot_overwrite_it(network: Path) -> None:
    app = web(model.router)
    model_files.install(app)
    reply = ask(app, "DELETE", "/model/segment")
    assert reply.status_code == 200
    assert (network.parent / model_files.KEPT / reply.json()["kept"]).read_bytes() == NETWORK
