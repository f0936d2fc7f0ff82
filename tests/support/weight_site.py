"""A site that weights are downloaded from, good or bad."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import torch

from lib.generalists.entries import Entry
from local_site import LocalSite
from tinymodel import random_state, register


class Site(LocalSite):
    """A web server with one file.

    Attributes:
        data: the file.
        mode: ``good``, ``drop`` (close after ``drop_at`` bytes), ``page``, ``disguised`` (a page that says it is a
            file), ``no-ranges``, or a status code.
        tag: its ETag, None sends none.
        asked: the Range and If-Range headers of each request.
    """

    def __init__(self) -> None:
        self.data = bytes(range(256)) * 40
        self.mode = "good"
        self.drop_at = 3000
        self.tag: str | None = '"one"'
        self.asked: list[tuple[str | None, str | None]] = []
        super().__init__()
        self.url = f"http://{self.host}/tiny.pt"

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        self.asked.append((to.headers["Range"], to.headers["If-Range"]))
        if self.mode.isdecimal():
            to.send_error(int(self.mode))
            return
        if self.mode in ("page", "disguised"):
            body, kind = b"\n <!doctype html><title>Log in</title>", "text/html" if self.mode == "page" else "x/y"
            self.send(to, 200, body, {"Content-Type": kind})
            return
        headers = {"Content-Type": "application/octet-stream"} | ({"ETag": self.tag} if self.tag else {})
        start = 0
        if to.headers["Range"] and self.mode != "no-ranges" and to.headers["If-Range"] in (None, self.tag):
            start = int(to.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.data):
                to.send_error(416)
                return
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        body = self.data[start:]
        sent = body[: self.drop_at] if self.mode == "drop" else body
        self.send(to, 206 if start else 200, sent, headers, len(body))


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def entry(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """``tiny``, whose file is on the site; no hash is known."""
    torch.save({"model": random_state("tiny", 0), "log": torch.rand(100_000)}, tmp_path / "published.pt")
    site.data = (tmp_path / "published.pt").read_bytes()
    site.drop_at = len(site.data) // 2
    return register(monkeypatch, url=site.url)
