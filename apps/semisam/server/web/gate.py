"""What every request passes before MONAI Label sees it, and what becomes of errors that nobody else answers.

MONAI Label 0.8.5 takes bodies of any size, answers its own stumbling over a malformed request with a bare 500, lets
pages of any origin read everything, and the paths of its DICOMweb proxy climb out of the DICOMweb server's root.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import traceback
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import jwt
import requests
from fastapi import FastAPI, HTTPException
from monailabel.config import settings
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.core.errors import UserError
from lib.setup.settings import Settings
from server.dicomweb.server import reason_of
from server.errors import http_answers

from .login import user_of
from .routes import first_time
from .temporary_files import Scratch

logger = logging.getLogger("semisam.gate")

MEBIBYTE = 2**20
MOST_WORDS = 4 * MEBIBYTE
"""Bytes of a body that is no upload: JSON is read into memory, and the server answers nobody else meanwhile."""

_TAKES_FILES = re.compile(r"/(datastore|infer|session|model|proxy/dicom)(/|$)")
"""Addresses to which files are sent. All others get words, which are read into memory whole."""

_ANSWERS_422 = "request_validation_exception_handler"
"""FastAPI repeats what it does not accept, and fails when JSON has no word for it: NaN."""

_ENDPOINTS = "monailabel.endpoints"
_APP = ("monailabel", "main", "server", "infers", "lib", "scoring", "strategies", "trainers")
_BAD_NAMES = (errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EEXIST)
_SHOWN = 200
_READING = ("GET", "HEAD", "OPTIONS")
_OWN_MACHINE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?")
"""Origins on this machine: OHIF opened at ``localhost`` asks ``127.0.0.1``."""


def install(app: FastAPI, chosen: Settings) -> None:
    """Put the gate before all routes; once, however often MONAI Label loads our app.

    Args:
        app: MONAI Label's web application, which has started already.
        chosen: what the administrator chose: the largest upload, and whose pages may use this server besides its own
            and this machine's. MONAI Label's own setting, MONAI_LABEL_CORS_ORIGINS, keeps its server from starting.
    """
    if not first_time(app, "gate"):
        return
    # Anybody may ask for it, also without a log-in, and the reloaded app would no longer take labels of people.
    reload = f"{settings.MONAI_LABEL_API_STR}/reload"
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", None) not in ("/reload", reload)]
    for each in app.user_middleware:
        if getattr(each.cls, "__name__", "") == "CORSMiddleware" and "*" not in chosen.origins:
            each.kwargs.update(allow_origins=list(chosen.origins), allow_origin_regex=_OWN_MACHINE.pattern)
    # Last, so that it lies within the one for other origins: its answers, too, must be readable for OHIF elsewhere.
    app.user_middleware.append(
        Middleware(
            Gate,
            most_bytes=chosen.most_upload,
            scratch=Scratch(),
            origins=chosen.origins,
            hosts=chosen.hosts,
        )
    )
    app.middleware_stack = None  # made anew with the next request; the app is loaded while the server starts


class Gate:
    """The middleware.

    Args:
        app: what comes next.
        most_bytes: largest upload.
        scratch: the server's temporary files, emptied whenever no request is being answered.
        origins: whose pages may use the server, see ``check_origin``.
        hosts: names of the server, see ``check_host``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        most_bytes: int,
        scratch: Scratch,
        origins: Sequence[str] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        self._app = app
        self._most = most_bytes
        self._scratch = scratch
        self._origins = origins
        self._hosts = hosts
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._inside += 1
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            check_path(scope)
            check_host(scope, self._hosts)
            check_origin(scope, self._origins)
            body = _Body(scope, receive, self._most)
            await body.check_announced()
            if body.upload and settings.MONAI_LABEL_AUTH_ENABLE:
                await run_in_threadpool(check_login, scope)
            await self._app(scope, body, watched)
        except Exception as error:
            if started:
                raise
            answer = answer_of(_no_tools(scope, error) or error)
            text = json.dumps({"detail": answer.detail}).encode()
            reply = Response(text, answer.status_code, answer.headers, "application/json")
            await reply(scope, receive, watched)
        finally:
            self._inside -= 1
            if not self._inside:
                self._scratch.empty()


class _Body:
    """A request's body that ends with status 413 when it becomes too long; a ``receive`` of ASGI."""

    def __init__(self, scope: Scope, receive: Receive, most_upload: int) -> None:
        self._receive = receive
        kind = _header(scope, b"content-type").strip().lower()
        files = kind.startswith(("multipart/", "application/dicom"))
        self.upload = files and _TAKES_FILES.match(scope["path"]) is not None
        self._most = most_upload if self.upload else min(most_upload, MOST_WORDS)
        announced = _header(scope, b"content-length")
        self._announced = int(announced) if announced.isdigit() else 0
        self._got = 0

    async def check_announced(self) -> None:
        """Raise HTTPException (413) for a length that is said to be too much."""
        if self._announced > self._most:
            await self._refuse()

    async def __call__(self) -> Message:
        """The next piece."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            if self._got > self._most:
                await self._refuse(message)
        return message

    async def _refuse(self, message: Message | None = None) -> None:
        """Read on for a while before answering: a client that is still sending would not read the answer."""
        left = self._most + MOST_WORDS
        while left > 0 and (message is None or message.get("more_body", False)):
            message = await self._receive()
            left -= max(1, len(message.get("body", b"")))
        raise HTTPException(413, self._text())

    def _text(self) -> str:
        if not self.upload:
            return f"The request is longer than {self._most / MEBIBYTE:g} MiB. Leave out what the server does not need."
        return (
            f"The upload is larger than {self._most / MEBIBYTE:g} MiB. Crop or compress it, or ask the administrator "
            "to raise --conf max_upload."
        )


def check_path(scope: Scope) -> None:
    """Raise UserError for a path that climbs out of a folder: MONAI Label's DICOMweb proxy hands it on as it is."""
    path = unquote(unquote(scope["path"])).replace("\\", "/")
    if ".." in path.split("/") or "\0" in path:
        raise UserError("The address must not hold '..' or a zero byte.")


def _no_tools(scope: Scope, error: Exception) -> UserError | None:
    """What to say where MONAI Label has asked a program that this machine does not have."""
    if scope["path"].rstrip("/") == "/logs/gpu" and isinstance(error, FileNotFoundError):
        return UserError("This machine has no NVIDIA GPU, or no nvidia-smi: there is nothing to show.", status=404)
    return None


def check_host(scope: Scope, hosts: Sequence[str]) -> None:
    """Raise UserError (403) when the server is asked under a name that is not its own.

    Somebody else's name may be made to lead here (DNS rebinding); a browser then takes this server's answers for those
    of a page there. Numbers are safe, and so is the user's own machine. Where no names are given, all others will do,
    but not on connections from this machine.

    Args:
        scope: of the request.
        hosts: names of the server in small letters.
    """
    name = (_parts(f"//{_header(scope, b'host')}").hostname or "").lower()
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


def check_login(scope: Scope) -> None:
    """Raise HTTPException (401) for an upload by somebody unknown, before it is read."""
    kind, _, token = _header(scope, b"authorization").partition(" ")
    try:
        if kind.lower() == "bearer":
            user_of(token.strip())
            return
    except jwt.InvalidTokenError as error:
        logger.info("An upload with a token that does not count: %s", error)
    raise HTTPException(401, "Log in first.", {"WWW-Authenticate": "Bearer"})


def check_origin(scope: Scope, origins: Sequence[str]) -> None:
    """Raise UserError (403) when a page of somebody else makes a browser change something here.

    A browser lets any page send such requests, though it does not show the page their answers.
    """
    origin = _header(scope, b"origin")
    if not origin or scope["method"] in _READING or "*" in origins or origin in origins:
        return
    if _OWN_MACHINE.fullmatch(origin) or _parts(origin).netloc == _header(scope, b"host"):
        return
    raise UserError(
        f"Pages of {origin[:_SHOWN]} may not use this server. If they should, the administrator names them in "
        "--conf origins.",
        status=403,
    )


def _header(scope: Scope, name: bytes) -> str:
    """A header of a request, "" when it is absent."""
    return next((v.decode("latin-1") for k, v in scope["headers"] if k.lower() == name), "")


def answer_of(error: Exception) -> HTTPException:
    """What a client is told about an error that has reached nobody else."""
    try:
        with http_answers():
            raise _elsewhere(error) or _malformed(error) or error
    except HTTPException as answer:
        return answer


def _malformed(error: Exception) -> UserError | None:
    """The error in words when the request is to blame, else None."""
    text = str(error).encode(errors="backslashreplace").decode()[:_SHOWN]
    if isinstance(error, json.JSONDecodeError):
        return UserError(f"The request holds text that should be JSON and is not (line {error.lineno}).")
    if isinstance(error, UnicodeError):
        return UserError("The request holds text that is no Unicode, such as half of a surrogate pair.")
    if any(frame.f_code.co_name == _ANSWERS_422 for frame, _ in traceback.walk_tb(error.__traceback__)):
        return UserError("The request does not have the form that its address asks for, see /docs.")
    if isinstance(error, OSError) and error.errno not in _BAD_NAMES:
        return None
    stumbles = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError, OSError)
    if isinstance(error, stumbles) and _deepest(error).startswith(_ENDPOINTS):
        logger.warning("MONAI Label could not read a request: %s: %s", type(error).__name__, text)
        return UserError("A part of the request is missing, or is not what its address asks for, see /docs.")
    return None


def _elsewhere(error: Exception) -> HTTPException | None:
    """The answer when another server is to blame, else None; its address and its words are for the log."""
    if not isinstance(error, requests.RequestException):
        return None
    logger.error("Another server did not answer as it should: %s", error)
    if _deepest(error).startswith(f"{_ENDPOINTS}.login") and error.response is not None:
        return HTTPException(401, "The log-in server does not know this user name with this password.")
    if error.request is None or not error.request.url:
        return HTTPException(404, "This server has no DICOMweb server behind it.")
    return HTTPException(502, f"The DICOM or log-in server behind this one {reason_of(error)}. Try again later.")


def _deepest(error: Exception) -> str:
    """The module of MONAI Label or of this app in which an error arose."""
    name = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module: Any = frame.f_globals.get("__name__", "")
        if str(module).split(".")[0] in _APP:
            name = str(module)
    return name
