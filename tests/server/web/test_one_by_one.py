"""Requests take their turns in a second thread; what must never wait is answered beside them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

import pytest
from fastapi import FastAPI, Request, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from server.web.one_by_one import OneByOne

ALIVE = "/alive"
WHO: ContextVar[str] = ContextVar("who", default="")


class Site:
    """A web application whose work holds up its event loop, as MONAI Label's does."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.threads: list[str] = []
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

        inner = OneByOne(app, aside, [ALIVE])

        async def outer(scope: Scope, receive: Receive, send: Send) -> None:
            WHO.set("anna")
            await inner(scope, receive, send)

        self.client = TestClient(outer, raise_server_exceptions=False)


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
