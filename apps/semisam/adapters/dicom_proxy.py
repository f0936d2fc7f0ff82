"""The way from OHIF to the DICOMweb server, under ``/proxy/dicom/``, in the place of MONAI Label's own.

MONAI Label 0.8.5 waits for the DICOMweb server where it should answer everybody else, without a limit: a server that
falls silent stops them all. It keeps whole answers and uploads in memory, hands on the token of the user who is logged
in, and leaves the question out (``?PatientID=...``), so that every search finds everything.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import requests
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from starlette.concurrency import run_in_threadpool

from .dicomweb_server import session_for
from .routes import put_first

PATH = "/proxy/dicom"
_MARK = "semisam_proxy"
_IN_MEMORY = 4 * 2**20
_PIECE = 2**16
_ONE_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "set-cookie",
        "te",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that are about the connection to the DICOMweb server, or its secrets."""


def install(app: FastAPI) -> None:
    """Put the routes in the place of MONAI Label's; once, however often the app is loaded."""
    if getattr(app.state, _MARK, False):
        return
    setattr(app.state, _MARK, True)
    proxy = Proxy()
    router = APIRouter(prefix=PATH)
    reader = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))

    @router.get("/{path:path}", include_in_schema=False)
    @router.post("/{path:path}", include_in_schema=False)
    async def hand_on(request: Request, path: str, user: User = reader) -> StreamingResponse:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as body:
            async for piece in request.stream():
                await run_in_threadpool(body.write, piece)
            return await run_in_threadpool(proxy.ask, request, path, body)

    put_first(app, router)


class Proxy:
    """Asks the DICOMweb server; each thread has connections of its own."""

    def __init__(self) -> None:
        self._own = threading.local()

    def ask(self, request: Request, path: str, body: Any) -> StreamingResponse:
        """Hand a request on, and its answer back as it arrives.

        Args:
            request: GET or POST; of its headers only the kind of the body is handed on, and what a POST accepts.
            path: what follows the proxy's own address: ``qido/``, ``wado/``, ``stow/`` or nothing, and the resource.
            body: the body, as a file.

        Raises:
            HTTPException: (404) when the study is a folder.
            requests.RequestException: when the server does not answer; the gate makes a 502 of it.
        """
        server = settings.MONAI_LABEL_STUDIES.strip().rstrip("/")
        if not server.startswith(("http://", "https://")):
            raise HTTPException(404, "This server has no DICOMweb server behind it.")
        url = f"{server}/{quote(resource(path))}"
        if request.url.query:
            url = f"{url}?{request.url.query}"
        if request.method == "POST":
            wanted = ("content-type", "accept")
            headers = {name: request.headers[name] for name in wanted if name in request.headers}
            body.seek(0)
            answer = self._session(server).post(url, headers=headers, data=body, stream=True)
        else:
            answer = self._session(server).get(url, stream=True)
        passed = {k: v for k, v in answer.headers.items() if k.lower() not in _ONE_HOP}
        return StreamingResponse(_pieces(answer), answer.status_code, passed)

    def _session(self, server: str) -> requests.Session:
        if not hasattr(self._own, "session"):
            self._own.session = session_for(server)
        session: requests.Session = self._own.session
        return session


def resource(path: str) -> str:
    """The path on the DICOMweb server for one on the proxy."""
    prefixes = {
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    service, _, rest = path.partition("/")
    if service not in prefixes:
        return path
    if rest.endswith("metadata") and service == "qido":  # some versions of OHIF ask so
        service = "wado"
    prefix = prefixes[service]
    return f"{prefix}/{rest}" if prefix else rest


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    """The body as the server sends it, compressed if it is."""
    with answer:
        yield from answer.raw.stream(_PIECE, decode_content=False)
