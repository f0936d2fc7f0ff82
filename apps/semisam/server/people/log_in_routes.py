"""The addresses of the log-in: 3D Slicer's (``/auth/``) and the browser's page (``/semisam/login``)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_current_user

from server.upstream import own_login
from server.upstream.routes import put_first

from .door import address_of, current_user
from .log_in import HOURS, LogIn
from .log_in_page import for_browsers


def install(app: FastAPI, log_in: LogIn) -> None:
    """Add the addresses, and let MONAI Label's checks of roles know who asks.

    Args:
        app: MONAI Label's web application.
        log_in: knows the users.
    """
    own_login.install(app, current_user)
    router = APIRouter(tags=["Auth"])
    _for_programs(router, log_in)

    async def ask(request: Request, name: str, password: str) -> str:
        return await log_in.token(name, password, address_of(request.scope))

    router.include_router(for_browsers(ask, HOURS * 3600))
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
