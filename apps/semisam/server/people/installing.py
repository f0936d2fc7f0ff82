"""The app's own log-in is put in place where the administrator has named a file of users."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI
from starlette.types import Scope

from lib.core.errors import UserError
from lib.setup.settings import Settings
from server.web import gate

from . import log_in_routes
from .audit_log import AuditLog
from .current import person
from .door import Door, address_of
from .log_in import LogIn


def check(chosen: Settings) -> None:
    """Raise UserError when there would be two log-ins."""
    # Not its setting: that is ours once the log-in is in place.
    if chosen.users is not None and os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").lower() in ("1", "true", "yes", "on"):
        raise UserError("There are two log-ins: --conf users, and MONAI_LABEL_AUTH_ENABLE. Leave one of them out.")


def install_gate(app: FastAPI, chosen: Settings, place: Path) -> None:
    """Put the gate in place, with the log-in where there is one.

    Args:
        app: MONAI Label's web application.
        chosen: what the administrator chose.
        place: folder of the study's own files: the key of the log-in and the audit log go there.
    """
    if chosen.users is None:
        gate.install(app, chosen)
        return
    log_in = LogIn(chosen.users, place / "login.key")
    audit = AuditLog(place / "audit.log")

    def note(scope: Scope, status: int) -> None:
        audit.note(scope, person(), address_of(scope), status)

    log_in_routes.install(app, log_in)
    gate.install(app, chosen, Door(log_in).look, note)
