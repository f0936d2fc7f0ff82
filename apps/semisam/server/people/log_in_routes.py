"""The addresses of the log-in: 3D Slicer's (``/auth/``) and the browser's page (``/semisam/login``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.security import OAuth2PasswordRequestForm
from jinja2 import Environment, FileSystemLoader
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_current_user

from server.upstream import own_login
from server.upstream.routes import put_first
from server.web.request_head import encrypted

from .door import LOGIN, LOGOUT, address_of, cookie, current_user
from .log_in import HOURS, LogIn

_HERE = Path(__file__).parent
_PAGES = Environment(loader=FileSystemLoader(_HERE), autoescape=True)
_POLICY = "default-src 'self'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
_HEADERS = {"Cache-Control": "no-store", "Content-Security-Policy": _POLICY}
START = "/semisam/"
"""Where a browser goes after the log-in when it did not want anything else."""


def install(app: FastAPI, log_in: LogIn) -> None:
    """Add the addresses, and let MONAI Label's checks of roles know who asks.

    Args:
        app: MONAI Label's web application.
        log_in: knows the users.
    """
    own_login.install(app, current_user)
    router = APIRouter(tags=["Auth"])
    _for_programs(router, log_in)
    _for_browsers(router, log_in)
    put_first(app, router)


def _for_programs(router: APIRouter, log_in: LogIn) -> None:
    @router.get("/auth/", summary="Whether a log-in is needed")
    def enabled() -> dict[str, Any]:
        return {"enabled": True, "client_id": settings.MONAI_LABEL_AUTH_CLIENT_ID, "realm": ""}

    @router.post("/auth/token", summary="Log in: a token for a user name and a password")
    async def token(request: Request, form: OAuth2PasswordRequestForm = Depends()) -> dict[str, Any]:  # noqa: B008
        made = await log_in.token(form.username, form.password, address_of(request.scope))
        return {"access_token": made, "token_type": "bearer", "expires_in": HOURS * 3600}

    @router.get("/auth/token/valid", summary="Whose token this is")
    def valid(user: User = Depends(get_current_user)) -> dict[str, Any]:  # noqa: B008
        return user.model_dump()


def _for_browsers(router: APIRouter, log_in: LogIn) -> None:
    def page(target: str, problem: str = "", status: int = 200) -> HTMLResponse:
        text = _PAGES.get_template("login.html").render(target=target, problem=problem)
        return HTMLResponse(text, status, _HEADERS)

    @router.get(LOGIN, include_in_schema=False)
    def show(target: str = Query(START, alias="next")) -> HTMLResponse:
        return page(own_page(target))

    @router.post(LOGIN, include_in_schema=False)
    async def enter(
        request: Request,
        username: str = Form(""),
        password: str = Form(""),
        target: str = Form(START, alias="next"),
    ) -> Any:
        try:
            made = await log_in.token(username.strip(), password, address_of(request.scope))
        except HTTPException as error:
            return page(own_page(target), str(error.detail), error.status_code)
        reply = RedirectResponse(own_page(target), 303)
        reply.set_cookie(
            cookie(), made, max_age=HOURS * 3600, httponly=True, samesite="lax", secure=encrypted(request.scope)
        )
        return reply

    @router.post(LOGOUT, include_in_schema=False)
    @router.get(LOGOUT, include_in_schema=False)
    def leave() -> RedirectResponse:
        reply = RedirectResponse(LOGIN, 303)
        reply.delete_cookie(cookie())
        return reply


def own_page(target: str) -> str:
    """The page to go to after the log-in, if it is one of this server; else the first one."""
    plain = target.replace("\\", "/")
    return target if plain.startswith("/") and not plain.startswith("//") and target.isprintable() else START
