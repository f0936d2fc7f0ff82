"""The way from OHIF to the DICOMweb server, under ``/proxy/dicom/``.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/proxy.py``.
- Wrong: it waits for the DICOMweb server where it should answer everybody else, without a limit: a server that falls
  silent stops them all. It keeps whole answers and uploads in memory, hands on the token of the user who is logged in,
  leaves the question out (``?PatientID=...``), so that every search finds everything, and lets paths climb out of the
  DICOMweb server's root.
- Done: a route before MONAI Label's, which hands resources of DICOMweb on in pieces, in threads of its own.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/proxy.py
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import AsyncIterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import quote

import requests
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from .dicomweb_client import session_for
from .routes import first_time, put_first

PATH = "/proxy/dicom"
_AT_A_TIME = 16
"""Requests that wait for the DICOMweb server; the next ones wait for these, and nobody else does."""
_IN_MEMORY = 4 * 2**20
_PIECE = 2**18
_PASSED = ("content-type", "content-length", "content-encoding", "content-range", "etag", "last-modified")
"""Headers of an answer that are handed on. Others are about the connection, or say who may read it: here that is us."""
_READ = re.compile(r"(studies|series|instances|bulkdata)(/|$)")
_STORED = re.compile(r"studies(/[0-9.]+)?")
_KINDS = ("multipart/related", "application/dicom")


def install(app: FastAPI) -> None:
    """Put the routes in the place of MONAI Label's; once, however often the app is loaded."""
    if not first_time(app, "proxy"):
        return
    proxy = Proxy()
    router = APIRouter(prefix=PATH)
    reader = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))

    @router.get("/{path:path}", include_in_schema=False)
    @router.post("/{path:path}", include_in_schema=False)
    async def hand_on(request: Request, path: str, user: User = reader) -> StreamingResponse:
        return await proxy.hand_on(request, path)

    put_first(app, router)


class Proxy:
    """Asks the DICOMweb server; each thread has connections of its own."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._limiter: CapacityLimiter | None = None

    async def hand_on(self, request: Request, path: str) -> StreamingResponse:
        """Hand a request on, and its answer back as it arrives.

        Args:
            request: GET or POST; of its headers only the encoding and, for a POST, what it sends and accepts go on.
            path: what follows the proxy's own address: ``qido/``, ``wado/``, ``stow/`` or nothing, and the resource.

        Raises:
            HTTPException: (404) when the study is a folder, or for what is no resource of DICOMweb; (415) for a POST
                of anything but DICOM.
            requests.RequestException: when the server does not answer; the gate makes a 502 of it.
        """
        server = settings.MONAI_LABEL_STUDIES.strip().rstrip("/")
        if not server.startswith(("http://", "https://")):
            raise HTTPException(404, "This server has no DICOMweb server behind it.")
        self._limiter = self._limiter or CapacityLimiter(_AT_A_TIME)  # it belongs to the event loop
        url = f"{server}/{quote(resource(path, request.method))}"
        if request.url.query:
            url = f"{url}?{request.url.query}"
        headers = {"accept-encoding": request.headers.get("accept-encoding", "identity")}
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
            if request.method == "POST":
                if not request.headers.get("content-type", "").lower().startswith(_KINDS):
                    raise HTTPException(415, "Only DICOM can be stored.")
                headers |= {
                    name: request.headers[name] for name in ("content-type", "accept") if name in request.headers
                }
                async for piece in request.stream():
                    await run_sync(body.write, piece)
                body.seek(0)
            answer = await run_sync(self._ask, server, request.method, url, headers, body, limiter=self._limiter)
        passed = {name: answer.headers[name] for name in _PASSED if name in answer.headers}
        return StreamingResponse(self._pieces(answer), answer.status_code, passed)

    def _ask(self, server: str, method: str, url: str, headers: dict[str, str], body: Any) -> requests.Response:
        if not hasattr(self._own, "session"):
            self._own.session = session_for(server)
            # A thread serves many users.
            self._own.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session: requests.Session = self._own.session
        data = body if method == "POST" else None
        answer = session.request(method, url, headers=headers, data=data, stream=True, allow_redirects=False)
        if answer.is_redirect:
            answer.close()
            raise requests.RequestException("a redirection is not followed", request=answer.request)
        return answer

    async def _pieces(self, answer: requests.Response) -> AsyncIterator[bytes]:
        """The body as the server sends it, compressed if it is."""
        pieces = answer.raw.stream(_PIECE, decode_content=False)
        try:
            while piece := await run_sync(next, pieces, b"", limiter=self._limiter):
                yield piece
        finally:
            answer.close()


def resource(path: str, method: str = "GET") -> str:
    """The path on the DICOMweb server for one on the proxy.

    Raises:
        HTTPException: (404) for what is no resource of DICOMweb: servers answer to much else below the same address.
    """
    prefixes = {
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    service, _, rest = path.partition("/")
    if service not in prefixes:
        service, rest = "", path
    if not (_STORED.fullmatch(rest) if method == "POST" else _READ.match(rest)):
        raise HTTPException(404, "This is no address of DICOMweb that is handed on.")
    if rest.endswith("metadata") and service == "qido":  # some versions of OHIF ask so
        service = "wado"
    prefix = prefixes.get(service)
    return f"{prefix}/{rest}" if prefix else rest
