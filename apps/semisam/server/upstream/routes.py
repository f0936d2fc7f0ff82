"""Routes: ours answer before MONAI Label's, and some of MONAI Label's do not answer at all.

- Package: MONAI Label 0.8.5 (``monailabel/app.py``), Starlette (``Router.routes``).
- Wrong: MONAI Label adds its routes when ``monailabel.app`` is imported, before it loads any app, and has no way to
  replace one. Starlette takes the first route that matches.
- Done: a router is included as usual, and its routes are moved to the front of the list; a route is taken out by its
  path.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/app.py
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from monailabel.config import settings


def put_first(app: FastAPI, router: APIRouter) -> None:
    """Add routes before all others, so that they answer in the place of MONAI Label's."""
    before = len(app.router.routes)
    app.include_router(router, prefix=settings.MONAI_LABEL_API_STR)
    routes = app.router.routes
    routes[:] = [*routes[before:], *routes[:before]]


def take_out(app: FastAPI, path: str) -> None:
    """Remove the routes with a path, whether MONAI Label puts its prefix before it or not."""
    paths = (path, f"{settings.MONAI_LABEL_API_STR}{path}")
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) not in paths]


def first_time(app: FastAPI, what: str) -> bool:
    """Whether this has not been added to the application yet: MONAI Label may load our app again."""
    mark = f"semisam_{what}"
    if getattr(app.state, mark, False):
        return False
    setattr(app.state, mark, True)
    return True
