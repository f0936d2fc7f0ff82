"""Work is done in a thread of its own, so that a question whether the server is alive is answered meanwhile.

MONAI Label's endpoints make a label without ever giving the event loop back. In uvicorn's own loop that holds up every
other answer for minutes, and a container's health check takes the server for dead. So the application runs in an event
loop in a second thread. It is still one loop: requests take their turns there exactly as they did before, and nothing
that was never meant for it runs in two threads at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Collection, Coroutine
from concurrent.futures import Future
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class OneByOne:
    """A middleware that hands requests to a second thread, but for those that must never wait.

    Args:
        app: what comes next; runs in the second thread.
        aside: answers the paths that never wait. It runs in the thread of the web server, must not block it, and may
            only read.
        paths: these paths.
    """

    def __init__(self, app: ASGIApp, aside: ASGIApp, paths: Collection[str]) -> None:
        self._app = app
        self._aside = aside
        self._paths = frozenset(paths)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=(self._loop,), daemon=True, name="semisam-requests").start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the interface is ASGI's."""
        if scope["type"] != "http":  # MONAI Label loads the app when it starts: signals reach the main thread only
            await self._app(scope, receive, send)
        elif scope["path"] in self._paths:
            await self._aside(scope, receive, send)
        else:
            outside = asyncio.get_running_loop()

            async def sent(message: Message) -> None:
                await asyncio.wrap_future(_start(send(message), outside))

            work = self._app(scope, _Inbox(receive, outside).next, sent)
            await asyncio.wrap_future(_start(work, self._loop))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop for ever.

    By ``run_until_complete``, as worker threads of anyio live as long as what it runs: under ``run_forever`` each
    request would have new ones, and with them new connections to the DICOM server.
    """

    async def ever() -> None:
        await loop.create_future()

    while not loop.is_closed():
        try:
            loop.run_until_complete(ever())
        except (SystemExit, KeyboardInterrupt):
            # Asked for within a request, it stops the loop. Going on hands it to the web server's loop, which ends.
            continue


class _Inbox:
    """The parts of a request, from the loop of another thread.

    Starlette asks whether a client has gone by giving up on the next part at once. What has come must be there without
    waiting then, and a part that nobody waits for any more must not be lost.

    Args:
        receive: gives the next part; runs in the other loop.
        outside: the other loop.
    """

    def __init__(self, receive: Receive, outside: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._outside = outside
        self._coming: Future[Message] | None = None

    async def next(self) -> Message:
        """The next part, in the loop that asks."""
        coming = self._coming or _start(self._receive(), self._outside)
        self._coming = coming
        if not coming.done():
            await asyncio.shield(asyncio.wrap_future(coming))
        message = coming.result()
        if message["type"] == "http.request" and self._coming is coming:
            last = not message.get("more_body", False)
            self._coming = _start(self._receive(), self._outside) if last else None
        return message


def _start(work: Awaitable[Any], loop: asyncio.AbstractEventLoop) -> Future[Any]:
    """Start something in the loop of another thread; a cancellation is handed on to it."""
    assert isinstance(work, Coroutine)
    return asyncio.run_coroutine_threadsafe(work, loop)
