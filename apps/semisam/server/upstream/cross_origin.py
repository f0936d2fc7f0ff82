"""Whose pages may read the server's answers.

- Package: MONAI Label 0.8.5, ``monailabel/app.py``, ``origins``.
- Wrong: pages of every origin may read everything. MONAI Label's own setting, MONAI_LABEL_CORS_ORIGINS, keeps its
  server from starting with the version of pydantic that it requires.
- Done: the middleware for other origins gets ours, before it is made: those of the setting ``origins``, and those of
  this machine.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/app.py
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

OWN_MACHINE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?")
"""Origins on this machine: OHIF opened at ``localhost`` asks ``127.0.0.1``."""


def install(app: FastAPI, origins: Sequence[str]) -> None:
    """Allow some origins only.

    Args:
        app: MONAI Label's web application.
        origins: whose pages may read answers; ``*`` for all.

    Raises:
        RuntimeError: when the application has no such middleware any more: who may read what would be unknown.
    """
    ours = [each for each in app.user_middleware if each.cls is CORSMiddleware]
    if not ours:
        raise RuntimeError("MONAI Label's application has no CORSMiddleware any more; see server/upstream")
    if "*" not in origins:
        for each in ours:
            each.kwargs.update(allow_origins=list(origins), allow_origin_regex=OWN_MACHINE.pattern)
