"""A middleware for an application that has started already.

- Package: Starlette 1.x, ``Starlette.add_middleware``; MONAI Label 0.8.5, ``monailabel/app.py``, ``lifespan``.
- Wrong: MONAI Label loads the app only while its web application starts, and Starlette refuses middlewares from then on
  ("Cannot add middleware after an application has started").
- Done: the middleware is appended to the list of those to be made, and the stack of those that were made is forgotten.
  It is made anew with the next request, the first one of a client.
- Source: https://github.com/Kludex/starlette/blob/main/starlette/applications.py,
  https://github.com/AUTOMATIC1111/stable-diffusion-webui/issues/7714 (others who have met it)
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware


def add_innermost(app: FastAPI, kind: Any, **arguments: Any) -> None:
    """Let a middleware be the last one before the routes.

    So it lies within the one for other origins: its answers, too, must be readable for a viewer elsewhere.

    Args:
        app: MONAI Label's web application.
        kind: class of the middleware.
        arguments: given to it.
    """
    app.user_middleware.append(Middleware(kind, **arguments))
    app.middleware_stack = None


def add_outermost(app: FastAPI, kind: Any, **arguments: Any) -> None:
    """Let a middleware be the first one that a request meets.

    Args:
        app: MONAI Label's web application.
        kind: class of the middleware.
        arguments: given to it.
    """
    app.user_middleware.insert(0, Middleware(kind, **arguments))
    app.middleware_stack = None
