"""Who did what: one line for each request that changes something, in a file that is changed for a new one when full."""

from __future__ import annotations

import json
import logging
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.types import Scope

from server.web.request_head import READING

_MOST_BYTES, _FILES = 5 * 2**20, 10
_ONLY_ASKS = ("/activelearning/", "/auth/", "/semisam/login", "/semisam/logout", "/session/")
_SCAN, _MOST_NAME = "semisam_scan", 200
_NAMES = ("image", "label", "id", "tag", "model", "method")


def note_scan(request: Request, name: str) -> None:
    """Say which scan a request is about, where its address does not.

    Args:
        request: being answered.
        name: of the scan.
    """
    request.scope.setdefault("state", {})[_SCAN] = name[:_MOST_NAME]


class AuditLog:
    """The file ``audit.log``.

    Args:
        file: where it lies; older ones beside it have numbers.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._logger = logging.getLogger(f"semisam.audit.{file}")
        self._logger.propagate = False
        self._logger.setLevel(logging.INFO)
        if not self._logger.handlers:
            handler = RotatingFileHandler(file, maxBytes=_MOST_BYTES, backupCount=_FILES, encoding="utf-8")
            self._logger.addHandler(handler)

    def note(self, scope: Scope, person: str, address: str, status: int) -> None:
        """Note a request that was answered, if it may have changed something.

        Args:
            scope: of the request.
            person: who has asked.
            address: from where.
            status: of the answer; what was refused is noted, too.
        """
        if scope["method"] in READING or scope["path"].startswith(_ONLY_ASKS):
            return
        state = scope.get("state", {})
        query = parse_qs(scope["query_string"].decode("latin-1"))
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "person": person,
            "from": address,
            "did": f"{scope['method']} {scope['path']}",
            **{name: query[name][0] for name in _NAMES if name in query},
            **({"image": state[_SCAN]} if _SCAN in state else {}),
            "status": status,
        }
        self._logger.info(json.dumps(entry, ensure_ascii=True))
