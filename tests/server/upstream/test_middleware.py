"""Starlette takes no middleware once an application has started; MONAI Label loads the app only then."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from server.upstream.middleware import add_innermost, add_outermost


class Mark:
    """Notes each request."""

    def __init__(self, app: ASGIApp, *, seen: list[str]) -> None:
        self._app, self._seen = app, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._seen.append(scope["path"])
        await self._app(scope, receive, send)


class Named(Mark):
    """Notes its own name instead."""

    def __init__(self, app: ASGIApp, *, name: str, seen: list[str]) -> None:
        super().__init__(app, seen=seen)
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._seen.append(self._name)
        await self._app(scope, receive, send)


def started_with(add: Any) -> tuple[list[str], Any]:
    """Add a middleware while an application starts, and ask it something."""
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        add(app, seen)
        yield

    with TestClient(FastAPI(lifespan=lifespan)) as client:
        return seen, client.get("/x")


def test_starlette_refuses() -> None:
    with pytest.raises(RuntimeError, match="after an application has started"):
        started_with(lambda app, seen: app.add_middleware(Mark, seen=seen))


def test_ours_is_asked() -> None:
    seen, reply = started_with(lambda app, seen: add_innermost(app, Mark, seen=seen))
    assert seen == ["/x"]
    assert reply.status_code == 404


def test_one_can_be_the_first_that_a_request_meets() -> None:
    def add(app: FastAPI, seen: list[str]) -> None:
        add_innermost(app, Mark, seen=seen)
        add_outermost(app, Named, name="outer", seen=seen)

    seen, _ = started_with(add)
    assert seen == ["outer", "/x"]


def test_monai_label_still_loads_the_app_while_it_starts() -> None:
    import monailabel.app

    source = inspect.getsource(monailabel.app.lifespan)
    assert source.index("app_instance()") < source.index("yield")
