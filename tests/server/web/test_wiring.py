"""What the gate looks at before a request gets any further."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.upstream.temporary_files import TemporaryFolder
from server.web.gate import Gate

OWN = b"semisam.hospital.example"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TemporaryFolder]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield TemporaryFolder()
    tempfile.tempdir = None


def asked(temporary: TemporaryFolder, headers: dict[bytes, bytes], method: str = "POST") -> tuple[int, str]:
    """Status and text of the answer; 200 where the request got through."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"detail": ""}'})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": "/train/semisam",
        "headers": [(b"host", OWN), *headers.items()] if b"host" not in headers else list(headers.items()),
        "server": ("10.1.2.3", 8000),
    }
    gate = Gate(app, most_bytes=100, temporary=temporary, origins=("https://viewer.example",), hosts=(OWN.decode(),))
    asyncio.run(gate(scope, receive, send))
    text = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(text)["detail"]


def test_the_server_answers_to_its_own_name_only(temporary: TemporaryFolder) -> None:
    """A name of somebody else that leads here would let a page of theirs read this server (DNS rebinding)."""
    assert asked(temporary, {})[0] == 200
    status, text = asked(temporary, {b"host": b"evil.example"})
    assert status == 403
    assert "evil.example" in text


def test_pages_of_others_change_nothing(temporary: TemporaryFolder) -> None:
    assert asked(temporary, {b"origin": b"https://viewer.example"})[0] == 200
    status, text = asked(temporary, {b"origin": b"https://evil.example"})
    assert status == 403
    assert "--conf origins" in text


def test_a_body_that_is_announced_as_too_long_is_not_read(temporary: TemporaryFolder) -> None:
    assert asked(temporary, {b"content-length": b"101"})[0] == 413


def test_a_page_that_listens_for_hours_does_not_keep_temporary_files(temporary: TemporaryFolder) -> None:
    left = temporary.folder / "tmp_upload.nii.gz"
    kept: dict[str, bool] = {}

    async def both() -> None:
        end = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].endswith("/events"):
                await end.wait()

        gate = Gate(app, most_bytes=100, temporary=temporary)

        async def ask(path: str) -> None:
            scope = {"type": "http", "method": "GET", "path": path, "headers": [], "server": ("127.0.0.1", 8000)}
            await gate(scope, lambda: asyncio.sleep(0), lambda message: asyncio.sleep(0))  # type: ignore[arg-type, return-value]

        listening = asyncio.create_task(ask("/semisam/api/events"))
        await asyncio.sleep(0)
        left.write_bytes(b"left behind")
        await ask("/info/")
        kept["while it listens"] = left.exists()
        end.set()
        await listening

    asyncio.run(both())
    assert kept == {"while it listens": False}
