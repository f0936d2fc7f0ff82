"""Work is done in a thread of its own, so that a question whether the server is alive is answered meanwhile.

MONAI Label's endpoints make a label without ever giving the event loop back. In uvicorn's own loop that holds up every
other answer for minutes, and a container's health check takes the server for dead. So the application runs in an event
loop in a second thread. It is still one loop: requests take their turns there exactly as they did before, and nothing
that was never meant for it runs in two threads at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine
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
        threading.Thread(target=self._loop.run_forever, daemon=True, name="semisam-requests").start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the interface is ASGI's."""
        if scope["type"] != "http":  # MONAI Label loads the app when it starts: signals reach the main thread only
            await self._app(scope, receive, send)
        elif scope["path"] in self._paths:
            await self._aside(scope, receive, send)
        else:
            outside = asyncio.get_running_loop()

            async def received() -> Message:
                return dict(await _within(outside, receive()))

            async def sent(message: Message) -> None:
                await _within(outside, send(message))

            await _within(self._loop, self._app(scope, received, sent))


async def _within(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    """Wait in this loop for something that is done in the one of another thread; a cancellation is handed on."""
    assert isinstance(work, Coroutine)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
