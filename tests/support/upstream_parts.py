"""MONAI Label's web application in this process, as it is without our patches, and with some of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.testclient import TestClient

from server.upstream.replacing import plain, restore


def web(*routers: APIRouter) -> FastAPI:
    """An application with some of MONAI Label's routes, and its middleware."""
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_credentials=True)
    for router in routers:
        app.include_router(router)
    return app


def ask(app: FastAPI, method: str, path: str, **arguments: Any) -> Any:
    """One request; an error that nobody answers becomes a bare 500, as with a real server."""
    with TestClient(app, raise_server_exceptions=False) as client:
        return client.request(method, path, **arguments)


@contextmanager
def as_brought(*functions: tuple[Any, str]) -> Iterator[None]:
    """Functions as their package brings them, now and afterwards."""
    for owner, name in functions:
        restore(owner, name)
    try:
        yield
    finally:
        for owner, name in functions:
            restore(owner, name)


def is_replaced(owner: Any, name: str) -> bool:
    """Whether a function is not the package's own at present."""
    return getattr(owner, name) is not plain(owner, name)


def serve(monkeypatch: pytest.MonkeyPatch, *modules: Any, **parts: Any) -> SimpleNamespace:
    """Let MONAI Label's modules meet an app with these parts."""
    app = SimpleNamespace(**parts)
    for module in modules:
        monkeypatch.setattr(module, "app_instance", lambda: app)
    return app
