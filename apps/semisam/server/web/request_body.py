"""A request's body, which ends with an answer when it becomes too long."""

from __future__ import annotations

import re

from fastapi import HTTPException
from starlette.types import Message, Receive, Scope

from .request_head import header

MEBIBYTE = 2**20
MOST_WORDS = 4 * MEBIBYTE
"""Bytes of a body that is no upload: JSON is read into memory, and the server answers nobody else meanwhile."""

_TAKES_FILES = re.compile(r"/(datastore|infer|session|model|proxy/dicom|semisam/api/outline)(/|$)")
"""Addresses to which files are sent. All others get words, which are read into memory whole."""


class Body:
    """A request's body that ends with status 413 when it becomes too long; a ``receive`` of ASGI."""

    def __init__(self, scope: Scope, receive: Receive, most_upload: int) -> None:
        self._receive = receive
        kind = header(scope, b"content-type").strip().lower()
        files = kind.startswith(("multipart/", "application/dicom"))
        self.upload = files and _TAKES_FILES.match(scope["path"]) is not None
        self._most = most_upload if self.upload else min(most_upload, MOST_WORDS)
        announced = header(scope, b"content-length")
        self._announced = int(announced) if announced.isdigit() else 0
        self._got = 0

    async def check_announced(self) -> None:
        """Raise HTTPException (413) for a length that is said to be too much."""
        if self._announced > self._most:
            await self._refuse()

    async def __call__(self) -> Message:
        """The next piece."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            if self._got > self._most:
                await self._refuse(message)
        return message

    async def _refuse(self, message: Message | None = None) -> None:
        """Read on for a while before answering: a client that is still sending would not read the answer."""
        left = self._most + MOST_WORDS
        while left > 0 and (message is None or message.get("more_body", False)):
            message = await self._receive()
            left -= max(1, len(message.get("body", b"")))
        raise HTTPException(413, self._text())

    def _text(self) -> str:
        if not self.upload:
            return f"The request is longer than {self._most / MEBIBYTE:g} MiB. Leave out what the server does not need."
        return (
            f"The upload is larger than {self._most / MEBIBYTE:g} MiB. Crop or compress it, or ask the administrator "
            "to raise --conf max_upload."
        )
