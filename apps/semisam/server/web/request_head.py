"""What is looked at of a request before its body is read: path, server's name, origin, log-in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, unquote, urlsplit

import jwt
from fastapi import HTTPException
from starlette.types import Scope

from lib.core.errors import UserError
from server.upstream.cross_origin import OWN_MACHINE
from server.upstream.token_check import user_of

logger = logging.getLogger("semisam.gate")

_SHOWN = 200
READING = ("GET", "HEAD", "OPTIONS")


def check_path(scope: Scope) -> None:
    """Raise UserError for a path that climbs out of a folder: MONAI Label's DICOMweb proxy hands it on as it is."""
    path = unquote(unquote(scope["path"])).replace("\\", "/")
    if ".." in path.split("/") or "\0" in path:
        raise UserError("The address must not hold '..' or a zero byte.")


def check_host(scope: Scope, hosts: Sequence[str]) -> None:
    """Raise UserError (403) when the server is asked under a name that is not its own.

    Somebody else's name may be made to lead here (DNS rebinding); a browser then takes this server's answers for those
    of a page there. Numbers are safe, and so is the user's own machine. Where no names are given, all others will do,
    but not on connections from this machine.

    Args:
        scope: of the request.
        hosts: names of the server in small letters.
    """
    name = (_parts(f"//{header(scope, b'host')}").hostname or "").lower()
    server = scope.get("server")
    if not name or name in (*hosts, "localhost") or _is_number(name):
        return
    if not hosts and not (server and _is_number(server[0]) and ip_address(server[0]).is_loopback):
        return
    raise UserError(
        f"This server does not go by the name {name[:_SHOWN]}. If it should, the administrator names it in "
        f"--conf hosts {name[:_SHOWN]}",
        status=403,
    )


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError as error:
        raise UserError(f"A header holds no address: {address[:_SHOWN]}") from error


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def check_origin(scope: Scope, origins: Sequence[str]) -> None:
    """Raise UserError (403) when a page of somebody else makes a browser change something here.

    A browser lets any page send such requests, though it does not show the page their answers.
    """
    origin = header(scope, b"origin")
    if not origin or scope["method"] in READING or "*" in origins or origin in origins:
        return
    if OWN_MACHINE.fullmatch(origin) or _is_own(scope, origin):
        return
    raise UserError(
        f"Pages of {origin[:_SHOWN]} may not use this server. If they should, the administrator names them in "
        "--conf origins.",
        status=403,
    )


def check_same_origin(scope: Scope) -> None:
    """Raise UserError (403) when a browser says that another page has made it ask; programs say nothing.

    For what no other page may do or read, whomever ``check_origin`` lets in.
    """
    site, origin = header(scope, b"sec-fetch-site") or "none", header(scope, b"origin")
    if site not in ("same-origin", "none") or (origin and not _is_own(scope, origin)):
        raise UserError("Pages of others may not use this one.", status=403)


def _is_own(scope: Scope, origin: str) -> bool:
    """Whether an origin is the server that is asked."""
    return _parts(origin).netloc == header(scope, b"host")


def check_login(scope: Scope) -> None:
    """Raise HTTPException (401) for an upload by somebody unknown, before it is read."""
    try:
        if token := bearer(scope):
            user_of(token)
            return
    except jwt.InvalidTokenError as error:
        logger.info("An upload with a token that does not count: %s", error)
    raise unknown()


def unknown(text: str = "Log in first.") -> HTTPException:
    """The answer (401) to somebody who has not logged in."""
    return HTTPException(401, text, {"WWW-Authenticate": "Bearer"})


def bearer(scope: Scope) -> str:
    """The token in a request's header ``Authorization`` (RFC 6750, 2.1), "" when there is none."""
    kind, _, token = header(scope, b"authorization").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def encrypted(scope: Scope) -> bool:
    """Whether the browser speaks TLS, to this server or to a proxy before it."""
    return "https" in (scope["scheme"], header(scope, b"x-forwarded-proto"))


def header(scope: Scope, name: bytes) -> str:
    """A header of a request, "" when it is absent."""
    return next((v.decode("latin-1") for k, v in scope["headers"] if k.lower() == name), "")
