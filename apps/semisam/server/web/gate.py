"""What every request passes before MONAI Label sees it, and what becomes of errors that nobody else answers.

MONAI Label takes bodies of any size, and answers errors of its own with a bare 500. ``server.upstream`` has what is
done about single addresses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from fastapi import FastAPI
from monailabel.config import settings
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.setup.settings import Settings
from server.errors import answer_of
from server.upstream.middleware import add_innermost
from server.upstream.routes import first_time
from server.upstream.temporary_files import TemporaryFolder

from .request_body import Body
from .request_head import check_host, check_login, check_origin, check_path

Look = Callable[[Scope], Response | None]
"""Lets a request pass (None), answers it in its place, or raises HTTPException."""
Note = Callable[[Scope, int], None]
"""Notes a request and the status of its answer."""
LASTING = "/semisam/api/events"
"""An answer that goes on for as long as a page is open, and uses no temporary files."""


def install(app: FastAPI, chosen: Settings, look: Look | None = None, note: Note | None = None) -> None:
    """Put the gate before all routes; once, however often MONAI Label loads our app.

    Args:
        app: MONAI Label's web application, which has started already.
        chosen: what the administrator chose: the largest upload, and whose pages may use this server besides its own
            and this machine's.
        look: at who asks, where the app has a log-in of its own; see ``server.people``.
        note: notes each request that was answered.
    """
    if first_time(app, "gate"):
        add_innermost(
            app,
            Gate,
            most_bytes=chosen.most_upload,
            temporary=TemporaryFolder(),
            origins=chosen.origins,
            hosts=chosen.hosts,
            look=look,
            note=note,
        )


class Gate:
    """The middleware.

    Args:
        app: what comes next.
        most_bytes: largest upload.
        temporary: the server's temporary files, emptied whenever no request is being answered.
        origins: whose pages may use the server, see ``check_origin``.
        hosts: names of the server, see ``check_host``.
        look: at who asks.
        note: notes what was answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        most_bytes: int,
        temporary: TemporaryFolder,
        origins: Sequence[str] = (),
        hosts: Sequence[str] = (),
        look: Look | None = None,
        note: Note | None = None,
    ) -> None:
        self._app = app
        self._most = most_bytes
        self._temporary = temporary
        self._origins = origins
        self._hosts = hosts
        self._look = look
        self._note = note
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it; the interface is ASGI's."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        lasting = scope["path"].endswith(LASTING)
        self._inside += not lasting
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._note is not None:
                    self._note(scope, int(message["status"]))
            await send(message)

        try:
            check_path(scope)
            check_host(scope, self._hosts)
            check_origin(scope, self._origins)
            answer = self._look(scope) if self._look is not None else None
            if answer is not None:
                await answer(scope, receive, watched)
                return
            body = Body(scope, receive, self._most)
            await body.check_announced()
            if self._look is None and body.upload and settings.MONAI_LABEL_AUTH_ENABLE:
                await run_in_threadpool(check_login, scope)
            await self._app(scope, body, watched)
        except Exception as error:
            if started:
                raise
            told = answer_of(error)
            text = json.dumps({"detail": told.detail}).encode()
            reply = Response(text, told.status_code, told.headers, "application/json")
            await reply(scope, receive, watched)
        finally:
            self._inside -= not lasting
            if not self._inside:
                self._temporary.empty()
