"""Addresses of our own in MONAI Label's web application."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from monailabel.config import settings


def put_first(app: FastAPI, router: APIRouter) -> None:
    """Add routes before all others, so that they answer in the place of MONAI Label's."""
    before = len(app.router.routes)
    app.include_router(router, prefix=settings.MONAI_LABEL_API_STR)
    routes = app.router.routes
    routes[:] = [*routes[before:], *routes[:before]]


def first_time(app: FastAPI, what: str) -> bool:
    """Whether this has not been added to the application yet: MONAI Label may load our app again."""
    mark = f"semisam_{what}"
    if getattr(app.state, mark, False):
        return False
    setattr(app.state, mark, True)
    return True
