"""One line for each request that may change something, with the scan that it is about."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from monailabel.config import settings

from lib.people import Person, UsersFile, hash_password
from lib.setup.settings import Settings
from page_parts import HOST, open_study, put_pseudo_label, with_mark
from server.people.installing import install_gate
from server.study_page import routes, scan_routes


def test_an_act_on_the_page_is_kept_with_its_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", False)  # put back afterwards
    UsersFile(tmp_path / "users").save({"anna": Person("anna", "annotator", hash_password("correct horse"))})
    study = open_study(tmp_path)
    put_pseudo_label(study, 2)
    parts = SimpleNamespace(study=study, infer=None, trainer=SimpleNamespace(), jobs=None)
    monkeypatch.setattr(scan_routes, "app_instance", lambda: parts)
    web = FastAPI()
    install_gate(web, Settings(users=tmp_path / "users"), tmp_path / "place")
    routes.install(web)
    with TestClient(web, base_url=HOST) as client:
        client.post("/semisam/login", data={"username": "anna", "password": "correct horse"})
        version = client.get("/semisam/api/scan", params={"image": "case_2"}).json()["version"]
        asked = {"image": "case_2", "version": version}
        assert client.post("/semisam/api/send_back", json=asked, headers=with_mark(client)).status_code == 200
    (line,) = [json.loads(text) for text in (tmp_path / "place" / "audit.log").read_text().splitlines()]
    assert (line["person"], line["did"], line["image"]) == ("anna", "POST /semisam/api/send_back", "case_2")
