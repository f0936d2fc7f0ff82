"""MONAI Label's routes come first, and nothing of it can replace one."""

from __future__ import annotations

from fastapi import APIRouter
from monailabel.endpoints import login

from server.upstream.routes import first_time, put_first, take_out
from upstream_parts import ask, web


def ours() -> APIRouter:
    router = APIRouter()

    @router.get("/auth/")
    def answer() -> str:
        return "ours"

    return router


def test_routes_that_are_added_later_are_never_asked() -> None:
    app = web(login.router)
    app.include_router(ours())
    assert ask(app, "GET", "/auth/").json() != "ours"


def test_ours_are_asked_first_and_others_stay() -> None:
    app = web(login.router)
    put_first(app, ours())
    assert ask(app, "GET", "/auth/").json() == "ours"
    assert ask(app, "GET", "/auth/token/valid").status_code == 200


def test_a_route_is_taken_out() -> None:
    app = web(login.router)
    app.add_api_route("/x", lambda: "x")
    assert ask(app, "GET", "/x").json() == "x"
    take_out(app, "/x")
    assert ask(app, "GET", "/x").status_code == 404
    assert ask(app, "GET", "/auth/").status_code == 200


def test_things_are_added_once() -> None:
    app = web()
    assert [first_time(app, "x"), first_time(app, "x"), first_time(app, "y")] == [True, False, True]
