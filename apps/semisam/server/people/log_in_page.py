"""The log-in of browsers: one page and one cookie, whoever knows the passwords."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader

from server.errors import http_answers
from server.web.request_head import check_same_origin, encrypted

from .door import LOGIN, LOGOUT, cookie

Ask = Callable[[Request, str, str], Awaitable[str]]
"""Gives a token for a user name and a password; raises HTTPException for wrong ones."""

START = "/semisam/"
"""Where a browser goes after the log-in when it did not want anything else."""
_PAGES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
_POLICY = "default-src 'self'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": _POLICY}


def login_page(target: str = START, problem: str = "", status: int = 200) -> HTMLResponse:
    """The page that asks for name and password.

    Args:
        target: where to go afterwards.
        problem: what has gone wrong before.
        status: of the answer.
    """
    text = _PAGES.get_template("login.html").render(target=own_page(target), problem=problem)
    return HTMLResponse(text, status, _HEADERS)


def for_browsers(ask: Ask, seconds: int | None = None) -> APIRouter:
    """The addresses of the page.

    Args:
        ask: checks passwords.
        seconds: how long a browser keeps the token; None until it is closed.
    """
    router = APIRouter(tags=["Auth"])

    @router.get(LOGIN, include_in_schema=False)
    def show(target: str = Query(START, alias="next")) -> HTMLResponse:
        return login_page(target)

    @router.post(LOGIN, include_in_schema=False)
    async def enter(
        request: Request,
        username: str = Form(""),
        password: str = Form(""),
        target: str = Form(START, alias="next"),
    ) -> Any:
        with http_answers():
            check_same_origin(request.scope)
        try:
            token = await ask(request, username.strip(), password)
        except HTTPException as error:
            return login_page(target, str(error.detail), error.status_code)
        reply = RedirectResponse(own_page(target), 303)
        reply.set_cookie(
            cookie(), token, max_age=seconds, httponly=True, samesite="lax", secure=encrypted(request.scope)
        )
        return reply

    @router.post(LOGOUT, include_in_schema=False)
    @router.get(LOGOUT, include_in_schema=False)
    def leave() -> RedirectResponse:
        reply = RedirectResponse(LOGIN, 303)
        reply.delete_cookie(cookie())
        return reply

    return router


def own_page(target: str) -> str:
    """The page to go to after the log-in, if it is one of this server; else the first one."""
    plain = target.replace("\\", "/")
    return target if plain.startswith("/") and not plain.startswith("//") and target.isprintable() else START
