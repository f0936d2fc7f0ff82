"""MONAI Label answers a wrong password with a bare 500."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from fastapi import FastAPI
from monailabel.config import settings
from monailabel.endpoints import login
from monailabel.endpoints.user import auth

from realm import PASSWORD, Realm
from server.upstream import login_route
from upstream_parts import ask, web


@pytest.fixture
def realm(monkeypatch: pytest.MonkeyPatch) -> Realm:
    realm = Realm()
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", realm.url)
    monkeypatch.setattr(auth.open_id_configuration, "cache", {}, raising=False)
    return realm


def log_in(app: FastAPI, password: str) -> Any:
    return ask(app, "POST", "/auth/token", data={"username": "uma", "password": password, "grant_type": "password"})


def test_a_wrong_password_is_told(realm: Realm) -> None:
    assert log_in(web(login.router), "wrong").status_code == 500
    app = web(login.router)
    login_route.install(app)
    reply = log_in(app, "wrong")
    assert (reply.status_code, reply.json()["detail"]) == (401, login_route.REFUSED)
    assert log_in(app, PASSWORD).json()["token_type"] == "Bearer"


def test_a_server_that_cannot_be_asked_is_no_wrong_password(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: object) -> None:
        raise requests.ConnectionError("no")

    monkeypatch.setattr(login.requests, "post", away)
    app = web(login.router)
    login_route.install(app)
    assert log_in(app, PASSWORD).status_code == 500  # by itself; the gate makes a 502 of it
