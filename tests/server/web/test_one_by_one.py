"""Requests take their turns in a second thread; what must never wait is answered beside them."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from server.web.one_by_one import OneByOne

ALIVE = "/alive"
WHO: ContextVar[str] = ContextVar("who", default="")


class Site:
    """A web application whose work holds up its event loop, as MONAI Label's does."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self.threads: list[str] = []
        self.workers: set[threading.Thread] = set()
        self.inside = self.most_inside = 0
        app, aside = FastAPI(), FastAPI()

        @app.post("/label")
        async def label() -> str:
            self.threads.append(threading.current_thread().name)
            self.inside += 1
            self.most_inside = max(self.inside, self.most_inside)
            self.begun.set()
            self.go_on.wait(20)
            self.inside -= 1
            return "label"

        @app.post("/upload")
        async def upload(file: UploadFile, request: Request) -> int:
            return len(await file.read())

        @app.get("/download")
        async def download() -> StreamingResponse:
            async def parts() -> AsyncIterator[bytes]:
                for number in range(50):
                    yield bytes([number]) * 10_000
                    await asyncio.sleep(0)

            return StreamingResponse(parts())

        @app.get("/who")
        async def who() -> str:
            return WHO.get()

        @app.get("/wrong")
        async def wrong() -> None:
            raise ValueError("wrong")

        @aside.get(ALIVE)
        def alive() -> str:
            return "alive"

        self.add_threads(app)
        self.add_lasting(app)
        inner = OneByOne(app, aside, [ALIVE])

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            WHO.set("anna")
            await inner(scope, receive, send)

        self.app = outer
        self.client = TestClient(outer, raise_server_exceptions=False)

    def add_threads(self, app: FastAPI) -> None:
        """What is done in a worker thread, and what ends the process."""

        @app.get("/worker")
        def worker() -> None:
            self.workers.add(threading.current_thread())

        @app.get("/ends")
        async def ends() -> None:
            raise SystemExit(3)

    def add_lasting(self, app: FastAPI) -> None:
        """An answer that goes on for as long as its client listens."""

        @app.get("/lasting")
        async def lasting(request: Request) -> StreamingResponse:
            async def beats() -> AsyncIterator[bytes]:
                try:
                    while not await request.is_disconnected():
                        yield b"beat\n"
                        await asyncio.sleep(0.02)
                finally:
                    self.ended.set()

            return StreamingResponse(beats())


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with site.client:  # one event loop for all requests, as a web server has
        yield site


def test_a_long_answer_does_not_hold_up_what_never_waits(site: Site) -> None:
    replies: list[str] = []
    work = threading.Thread(target=lambda: replies.append(site.client.post("/label").json()))
    work.start()
    assert site.begun.wait(10)
    began = time.monotonic()
    assert site.client.get(ALIVE).json() == "alive"
    assert time.monotonic() - began < 2
    assert replies == []
    site.go_on.set()
    work.join(10)
    assert replies == ["label"]


def test_requests_still_take_their_turns_in_one_thread(site: Site) -> None:
    several = [threading.Thread(target=lambda: site.client.post("/label")) for _ in range(4)]
    for each in several:
        each.start()
    time.sleep(0.3)
    site.go_on.set()
    for each in several:
        each.join(10)
    assert site.threads == ["semisam-requests"] * 4
    assert site.most_inside == 1


def test_bodies_streams_and_who_asks_get_through(site: Site) -> None:
    content = bytes(range(256)) * 10_000
    assert site.client.post("/upload", files={"file": ("scan.nii", content)}).json() == len(content)
    assert site.client.get("/download").content == b"".join(bytes([n]) * 10_000 for n in range(50))
    assert site.client.get("/who").json() == "anna"


def test_an_error_is_an_answer_and_the_next_request_works(site: Site) -> None:
    assert site.client.get("/wrong").status_code == 500
    assert site.client.get("/who").status_code == 200


def test_an_answer_that_goes_on_ends_when_its_client_goes(site: Site) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(site.app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
        thread.start()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b"GET /lasting HTTP/1.1\r\nHost: x\r\n\r\n")
            heard = b""
            while heard.count(b"beat") < 5:
                heard += client.recv(1000)
            assert not site.ended.is_set()
        assert site.ended.wait(20)
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_whether_a_client_has_gone_is_known_at_once(site: Site) -> None:
    """Also where Starlette does not look by itself: at an application that only asks."""
    parts = iter([{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}])
    asked: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        assert await request.body() == b""
        for _ in range(200):
            asked.append(await request.is_disconnected())
            if asked[-1]:
                return
            await asyncio.sleep(0.01)

    async def receive() -> Any:
        return next(parts)

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "path": "/x", "method": "GET", "headers": []}
    asyncio.run(OneByOne(app, app, [])(scope, receive, send))
    assert asked[-1]


def test_requests_one_after_the_other_share_a_worker_thread_and_so_its_connections(site: Site) -> None:
    for _ in range(20):
        site.client.get("/worker")
    assert 1 <= len(site.workers) < 5


def test_a_request_that_ends_the_server_leaves_none_hanging() -> None:
    site = Site()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        """Nobody reads it."""

    async def asked(path: str) -> None:
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
        await asyncio.wait_for(site.app(scope, receive, send), 10)

    with pytest.raises(SystemExit):
        asyncio.run(asked("/ends"))
    asyncio.run(asked("/who"))
    # asyncio tells of the exception when its task is cleared away. Told at any time, it would disturb another test.
    gc.collect()
