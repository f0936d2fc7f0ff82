"""Who may come in: every request but the log-in itself needs a token, in a header (3D Slicer) or cookie (browsers)."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import quote

from fastapi import HTTPException, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from lib.people import ROLES
from server.upstream import dicom_proxy
from server.web.request_head import READING, bearer, header, unknown

from .current import be
from .log_in import LogIn, roles_of

LOGIN, LOGOUT = "/semisam/login", "/semisam/logout"
_OPEN = (
    "/",
    "/docs",
    "/openapi.json",
    "/favicon.ico",
    "/auth/",
    "/auth/token",
    LOGIN,
    LOGOUT,
    "/semisam/health",
    "/semisam/health/live",
    "/semisam/metrics",
)
"""What says nothing of the study."""
_STATE = "semisam_user"


class Door:
    """Looks at the head of each request.

    Args:
        log_in: knows the tokens.
    """

    def __init__(self, log_in: LogIn) -> None:
        self._log_in = log_in

    def look(self, scope: Scope) -> Response | None:
        """Let a request pass, which then knows who asks; or the answer that sends a browser to the log-in.

        Raises:
            HTTPException: (401) for everybody else without a valid token, (403) for readers who store on the DICOM
                server.
        """
        be("")
        token = token_in(scope)
        if scope["path"] in _OPEN and not token:
            return None
        try:
            if not token:
                raise unknown()
            user = self._log_in.user(token)
        except HTTPException:
            if scope["path"] in _OPEN:
                return None
            if scope["method"] == "GET" and "text/html" in header(scope, b"accept"):
                query = scope["query_string"].decode("latin-1")
                wanted = f"{scope['path']}?{query}" if query else scope["path"]
                return RedirectResponse(f"{LOGIN}?next={quote(wanted, safe='')}", 303)
            raise
        scope.setdefault("state", {})[_STATE] = user
        be(user.username)
        _check_storing(scope, user)
        return None


def _check_storing(scope: Scope, user: User) -> None:
    """Raise HTTPException (403) for a reader who stores on the DICOM server: a SEG there is a final label."""
    annotator = settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR
    stores = scope["method"] not in READING and scope["path"].startswith(f"{dicom_proxy.PATH}/")
    if stores and annotator not in user.roles:
        raise lacks(user, annotator)


def cookie() -> str:
    """Name of the cookie with the token: browsers share cookies among all servers, of other studies, of one machine."""
    return f"semisam_login_{settings.MONAI_LABEL_SERVER_PORT}"


def token_in(scope: Scope) -> str:
    """The token of a request, empty when it brings none."""
    if token := bearer(scope):
        return token
    # Python's own reader drops all cookies for one that another program on this machine has set against the rules.
    return cookie_parser(header(scope, b"cookie")).get(cookie(), "")


def user_in(scope: Scope) -> User | None:
    """Who has passed the door; None where there is no log-in of our own."""
    state: Mapping[str, object] = scope.get("state", {})
    user = state.get(_STATE)
    return user if isinstance(user, User) else None


async def current_user(request: Request) -> User:
    """In the place of MONAI Label's ``get_current_user``: who has passed the door.

    Raises:
        HTTPException: (401) when nobody has.
    """
    user = user_in(request.scope)
    if user is None:
        raise unknown()
    check_role(request.scope.get("route"), user)
    return user


def check_role(route: object, user: User) -> None:
    """Raise HTTPException (403) when a route needs another role: before MONAI Label does, and in our own words."""
    dependant = getattr(route, "dependant", None)
    for each in dependant.dependencies if dependant is not None else ():
        needed = each.call.roles if isinstance(each.call, RBAC) else "*"
        if isinstance(needed, str) and needed != "*" and needed not in user.roles:
            raise lacks(user, needed)


def lacks(user: User, needed: str, *, own: bool = True) -> HTTPException:
    """The answer (403) to somebody who has logged in, but without a role.

    Args:
        user: who.
        needed: MONAI Label's name of the role.
        own: whether the app's own log-in gives the roles, which has other names for them.
    """
    role = next(name for name in ROLES if needed in roles_of(name)) if own else needed
    return HTTPException(
        403, f"{user.username} may not do this: it needs the role {role}. Ask the administrator of this server."
    )


def address_of(scope: Scope) -> str:
    """Where a request comes from; behind a proxy on this machine, what that says, which is the last entry."""
    client = scope.get("client")
    host = client[0] if client else ""
    try:
        near = ip_address(host).is_loopback
    except ValueError:
        near = False
    told = header(scope, b"x-forwarded-for").split(",")[-1].strip() if near else ""
    return told[:64] or host
