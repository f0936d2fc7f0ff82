"""The addresses of the page under ``/semisam/``: the page itself, its files, and the log-in."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from fastapi.security import OAuth2PasswordRequestForm
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from monailabel.config import settings

from server.people.log_in_page import for_browsers, login_page
from server.upstream.login_route import token_of
from server.upstream.routes import first_time

from . import scan_routes, work_routes
from .access import mark, may, needs
from .study_table import Question

logger = logging.getLogger("semisam")

PATH = "/semisam"
_TOLD_AFTER_SECONDS = 1.0
_reader = needs(settings.MONAI_LABEL_AUTH_ROLE_USER)
_HERE = Path(__file__).parent
_STATIC = {path.name: path for path in (_HERE / "static").iterdir() if path.is_file()}
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_PAGES = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Nothing but the server's own scripts run, and nobody shows the page in a frame."""


def install(app: FastAPI) -> None:
    """Add the page; once, however often MONAI Label loads our app.

    Args:
        app: MONAI Label's web application.
    """
    if not first_time(app, "study_page"):
        return
    if settings.MONAI_LABEL_AUTH_ENABLE:  # after our own log-in, which comes first where it is in place
        app.include_router(for_browsers(_ask))
    app.include_router(_pages(), prefix=settings.MONAI_LABEL_API_STR)
    for part in (scan_routes, work_routes):
        app.include_router(part.router, prefix=f"{settings.MONAI_LABEL_API_STR}{PATH}/api")


def tell_address() -> None:
    """Say in the log where the page is, after all that the web server says about its start.

    Other machines reach it under the server's own name.
    """
    scheme = "https" if "--ssl_certfile" in sys.argv else "http"
    address = f"{scheme}://127.0.0.1:{settings.MONAI_LABEL_SERVER_PORT}{settings.MONAI_LABEL_API_STR}{PATH}/"
    timer = threading.Timer(_TOLD_AFTER_SECONDS, logger.info, ("The study in a browser: %s", address))
    timer.daemon = True
    timer.start()


def look_ahead() -> None:
    """Look at the scans before anybody asks for the page: of thousands, that takes a moment."""

    def look() -> None:
        try:
            _PAGES.get_template("index.html")
            scan_routes.current().table(Question())
        except Exception as error:  # whoever opens the page is told
            logger.debug("The scans cannot be looked at yet: %s", error)

    timer = threading.Timer(2 * _TOLD_AFTER_SECONDS, look)
    timer.daemon = True
    timer.start()


def _pages() -> APIRouter:
    router = APIRouter(prefix=PATH)

    @router.get("", include_in_schema=False)
    def without_slash() -> RedirectResponse:
        return RedirectResponse(f"{settings.MONAI_LABEL_API_STR}{PATH}/", 307)

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        try:
            user = await _reader(request)
        except HTTPException as error:
            problem = str(error.detail) if error.status_code == 403 else ""
            return login_page(f"{settings.MONAI_LABEL_API_STR}{PATH}/", problem, error.status_code)
        known = user.username if settings.MONAI_LABEL_AUTH_ENABLE else ""
        return _html("index.html", mark=mark(), user=known, may=may(user), login=settings.MONAI_LABEL_AUTH_ENABLE)

    @router.get("/static/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        path = _STATIC.get(name)
        if path is None:
            raise HTTPException(404, "There is no such file.")
        kept = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return FileResponse(path, media_type=_TYPES[path.suffix], headers=kept)

    return router


async def _ask(request: Request, name: str, password: str) -> str:
    """A token of MONAI Label's log-in server."""
    form = OAuth2PasswordRequestForm(username=name, password=password, scope="")
    given: Any = await token_of(form)
    return str(given["access_token"] if isinstance(given, dict) else given.access_token)


def _html(template: str, **values: object) -> HTMLResponse:
    return HTMLResponse(_PAGES.get_template(template).render(**values), headers=HEADERS)
