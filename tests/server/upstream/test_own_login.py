"""MONAI Label's checks of roles take the user from us."""

from __future__ import annotations

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from server.upstream import own_login


def test_roles_are_checked_for_our_users_and_not_without_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", False)
    app = FastAPI()

    @app.get("/may")
    def may(user: User = Depends(RBAC("user"))) -> str:  # noqa: B008
        return user.username

    @app.get("/must-not")
    def must_not(user: User = Depends(RBAC("admin"))) -> str:  # noqa: B008
        return user.username

    client = TestClient(app)
    assert client.get("/must-not").json() == "admin", "MONAI Label lets everybody do everything without a log-in"

    async def anna() -> User:
        return User(username="anna", roles=["user"])

    own_login.install(app, anna)
    assert client.get("/may").json() == "anna"
    assert client.get("/must-not").status_code == 403
