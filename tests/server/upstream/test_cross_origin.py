"""MONAI Label lets pages of every origin read its answers."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from monailabel.endpoints import login

from server.upstream import cross_origin
from upstream_parts import ask, web


def readable(app: FastAPI, origin: str) -> bool:
    reply = ask(app, "GET", "/auth/", headers={"Origin": origin})
    assert reply.status_code == 200
    return reply.headers.get("access-control-allow-origin") in ("*", origin)


def test_pages_of_others_may_read_no_longer() -> None:
    assert readable(web(login.router), "https://evil.example")
    app = web(login.router)
    cross_origin.install(app, ("https://viewer.example",))
    assert not readable(app, "https://evil.example")
    assert readable(app, "https://viewer.example")
    assert readable(app, "http://localhost:3000")


def test_all_may_where_the_settings_say_so() -> None:
    app = web(login.router)
    cross_origin.install(app, ("*",))
    assert readable(app, "https://evil.example")


def test_an_application_without_the_middleware_is_refused() -> None:
    with pytest.raises(RuntimeError, match="CORSMiddleware"):
        cross_origin.install(FastAPI(), ())


def test_monai_label_still_has_the_middleware() -> None:
    import monailabel.app

    assert any(each.cls.__name__ == "CORSMiddleware" for each in monailabel.app.app.user_middleware)
